use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::*;
#[derive(Default)]
pub(crate) struct StallWatch;
impl StallWatch {
    pub(crate) fn check(&mut self, _: Instant, _: u64, _: &Arc<TcpStream>, _: Duration) -> io::Result<()> {
        Ok(())
    }
}
