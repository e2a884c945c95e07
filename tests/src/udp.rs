//! UDP sockets of the tests themselves, and what datagrams hold.

use std::net::{SocketAddr, UdpSocket};

use crate::PATIENCE;

/// A UDP socket on 127.0.0.1 with a receive time-out of [`PATIENCE`], and its address.
pub fn udp() -> (UdpSocket, SocketAddr) {
    udp_on("127.0.0.1:0")
}

/// As [`udp`], on another address.
pub fn udp_on(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let buffers = socket2::SockRef::from(&socket);
    let _ = buffers.set_recv_buffer_size(4 << 20);
    // BSD and macOS send no datagram that is larger than that.
    let _ = buffers.set_send_buffer_size(1 << 17);
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A UDP socket on the loopback interface that sends to this address.
pub fn connected(to: SocketAddr) -> UdpSocket {
    let (socket, _) = udp_on(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
    socket.connect(to).unwrap();
    socket
}

/// The next datagram.
pub fn datagram(socket: &UdpSocket) -> Vec<u8> {
    datagram_from(socket).0
}

/// The next datagram, and its sender.
pub fn datagram_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, sender) = loop {
        match socket.recv_from(&mut buffer) {
            // EINTR: a receive with a time-out is not begun again after the process was stopped (signal(7)); and under
            // QEMU a signal for another thread can do that.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.expect("no datagram came"),
        }
    };
    buffer.truncate(len);
    (buffer, sender)
}

/// The payload of the next datagrams, until it is as long.
pub fn payload(socket: &UdpSocket, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(datagram(socket));
    }
    bytes
}

/// Fails if a datagram is there.
#[track_caller]
pub fn assert_empty(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 100];
    match socket.recv_from(&mut buffer) {
        Ok((len, from)) => panic!("{:?} came from {from}", String::from_utf8_lossy(&buffer[..len])),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    socket.set_nonblocking(false).unwrap();
}

/// The datagrams as `--framing length` writes them: a length of two bytes before each.
pub fn framed(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let header = |datagram: &Vec<u8>| u16::try_from(datagram.len()).unwrap().to_be_bytes();
    datagrams.iter().flat_map(|datagram| [&header(datagram)[..], datagram].concat()).collect()
}
