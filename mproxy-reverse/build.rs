//! Makes the release binary smaller: see `mproxy-link`.

fn main() -> std::io::Result<()> {
    mproxy_link::shrink()
}
