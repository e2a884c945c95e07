//! TCP servers as sources: connected to, and again whenever the connection ends.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::error::Error;
use crate::io::stream::StreamSource;
use crate::log;
use crate::net::connect::set_up_stream;
use crate::net::options::Options;
use crate::net::resolve::Resolved;
use crate::relay::batch::Batch;
use crate::relay::flow::{Flow, Source};
use crate::relay::stats::{Counters, Meter};
use crate::relay::stop::Stop;
use crate::tcp::connection::Connection;
use crate::tcp::transport::{EstablishError, Transport, establish};

type Stream = StreamSource<Box<dyn Connection>>;

/// A TCP server that is connected to, and connected to again whenever the connection ends.
pub struct TcpServerSource {
    endpoint: Resolved,
    transport: Arc<dyn Transport>,
    options: Options,
    size: usize,
    stop: Stop,
    meter: Meter,
    counters: Arc<Counters>,
    connection: Option<(Stream, Instant)>,
    backoff: Backoff,
    /// How long to wait before the next attempt to connect.
    delay: Duration,
    /// Not the first attempt: the name is resolved again.
    reconnecting: bool,
    draining: bool,
}

impl fmt::Debug for TcpServerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServerSource").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl TcpServerSource {
    /// Takes the server; the first connection is made by the first receive.
    #[must_use]
    pub fn new(
        endpoint: Resolved,
        transport: Arc<dyn Transport>,
        options: &Options,
        size: usize,
        meter: Meter,
        stop: &Stop,
    ) -> Self {
        Self {
            endpoint,
            transport,
            options: options.clone(),
            size,
            stop: stop.clone(),
            counters: meter.counters(),
            meter,
            connection: None,
            backoff: Backoff::default(),
            delay: Duration::ZERO,
            reconnecting: false,
            draining: false,
        }
    }

    fn connect(&mut self) -> Result<Stream, Error> {
        if std::mem::replace(&mut self.reconnecting, true) {
            self.endpoint = self.endpoint.endpoint.resolve(&Options::default())?;
            self.endpoint.require_unicast()?;
        }
        let (endpoint, stop, transport, options) =
            (&self.endpoint, &self.stop, &self.transport, &self.options);
        let connected = connect_tcp(endpoint, stop, &mut |stream| {
            options.set_dscp(&SockRef::from(&stream), stream.peer_addr()?)?;
            establish(&**transport, stream, stop)
        });
        let (connection, address) =
            connected.map_err(|error| Error::io("connect to", endpoint, error.into()))?;
        log::info(format_args!("{endpoint}: connected to {address}"));
        let (name, counters) = (endpoint.to_string(), self.meter.counters());
        Ok(StreamSource::new(connection, name, options.framing, self.size, stop, counters))
    }

    /// Logs once that the connection is back.
    fn recovered(&mut self) {
        if std::mem::replace(&mut self.backoff.warned, false) {
            log::warn(format_args!("connected to {} again", self.endpoint));
        }
    }

    /// Logs once that there is no connection, and delays the next attempt.
    fn back_off(&mut self, reason: &str) {
        self.counters.failed(1);
        if !std::mem::replace(&mut self.backoff.warned, true) {
            log::warn(format_args!("{reason}; connecting again until it works"));
        }
        self.delay = self.backoff.next();
    }
}

impl Source for TcpServerSource {
    fn capacity(&self) -> usize {
        Stream::CAPACITY
    }

    fn receive(&mut self, batch: &mut Batch) -> Result<Flow, Error> {
        if self.draining && self.connection.is_none() {
            return Ok(Flow::End);
        }
        let Some((stream, since)) = &mut self.connection else {
            self.stop.sleep(std::mem::take(&mut self.delay));
            if self.stop.requested() {
                return Ok(Flow::More);
            }
            match self.connect() {
                Ok(stream) => {
                    if !std::mem::replace(&mut self.backoff.unproven, true) {
                        self.recovered();
                    }
                    self.connection = Some((stream, Instant::now()));
                }
                Err(_) if self.stop.requested() => {}
                Err(error) => self.back_off(&error.to_string()),
            }
            return Ok(Flow::More);
        };
        let (flow, lasted) = (stream.receive(batch), since.elapsed());
        if !batch.is_empty() && std::mem::replace(&mut self.backoff.unproven, false) {
            self.recovered();
        }
        let ended = match flow {
            Ok(Flow::More) => return Ok(Flow::More),
            Ok(Flow::End) => None,
            Err(error) => Some(error),
        };
        if self.draining {
            return Ok(Flow::End);
        }
        self.connection = None;
        self.backoff.unproven &= lasted < Backoff::FIRST;
        if lasted >= Backoff::RESET_AFTER {
            self.backoff.failures = 0;
        }
        match ended {
            Some(error) => self.back_off(&error.to_string()),
            None => self.back_off(&format!("{} has closed the connection", self.endpoint)),
        }
        Ok(Flow::More)
    }

    fn drain(&mut self) -> bool {
        self.draining = true;
        self.connection.as_mut().is_none_or(|(stream, _)| stream.drain())
    }
}

/// Connects to the first of the addresses where `establish` succeeds too, and returns its result and the
/// address.
pub(crate) fn connect_tcp<C>(
    endpoint: &Resolved,
    stop: &Stop,
    establish: &mut dyn FnMut(TcpStream) -> Result<C, EstablishError>,
) -> Result<(C, SocketAddr), EstablishError> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let mut last_error = EstablishError::Io(io::ErrorKind::AddrNotAvailable.into());
    for address in &endpoint.addresses {
        if stop.requested() {
            break;
        }
        let connected = TcpStream::connect_timeout(address, TIMEOUT)
            .and_then(|stream| set_up_stream(&stream).map(|()| stream))
            .map_err(EstablishError::Io)
            .and_then(&mut *establish);
        match connected {
            Ok(connection) => return Ok((connection, *address)),
            // A failed check of one address says more than the errors of the others.
            Err(_) if matches!(last_error, EstablishError::Refused(_)) => {}
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// The delay before the next attempt to connect: exponential backoff with jitter.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    /// The loss of the connection is logged, its return not yet.
    warned: bool,
    /// The last connection ended soon, without data: the next counts as recovered only with its first data.
    unproven: bool,
}

impl Backoff {
    /// After a connection that has lasted this long the delay is the first again.
    const RESET_AFTER: Duration = Duration::from_secs(60);
    const FIRST: Duration = Duration::from_millis(500);
    /// With jitter 30 seconds at most.
    const LONGEST: Duration = Duration::from_secs(24);

    fn next(&mut self) -> Duration {
        let base = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        base.mul_f64(1.0 + fastrand::f64() / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::net::endpoint::{Endpoint, Role};

    #[test]
    fn a_failed_check_says_more_than_a_closed_port_that_is_tried_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        // Bound, but without a listen: a connection is refused, and nobody else can have the port.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let closed = bound.local_addr().unwrap().as_socket().unwrap();
        let endpoint = Endpoint::parse(&open.to_string(), Role::TcpServer).unwrap();
        let mut endpoint = endpoint.resolve(&Options::default()).unwrap();
        let stop = Stop::new().unwrap();
        let mut refuse = |_| Err::<(), _>(EstablishError::Refused("a check".into()));
        for addresses in [[open, closed], [closed, open]] {
            endpoint.addresses = addresses.into();
            let error = connect_tcp(&endpoint, &stop, &mut refuse).unwrap_err();
            assert_eq!(error.to_string(), "a check");
        }
        endpoint.addresses = vec![closed];
        let error = connect_tcp(&endpoint, &stop, &mut refuse).unwrap_err();
        assert!(matches!(error, EstablishError::Io(_)), "{error}");
    }

    #[test]
    fn the_backoff_doubles_up_to_half_a_minute_jitter_included() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = std::iter::repeat_with(|| backoff.next().as_secs_f64()).take(40).collect();
        for (delay, base) in delays.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0]) {
            assert!((base..=base * 1.25).contains(delay), "{delay} for {base}");
        }
        assert!(delays[6..].iter().all(|delay| (24.0..=30.0).contains(delay)), "{delays:?}");
    }
}
