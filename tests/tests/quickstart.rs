//! The main job, as a new user meets it.

use mproxy_tests::{file_with, run, start};

#[test]
fn bytes_piped_into_the_client_come_out_of_the_servers_file_and_its_tee() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.log");
    let path = path.to_str().unwrap();
    let mut server = start("mproxy-server", &["--path", path, "--listen-addr", "127.0.0.1:0", "--tee", "-v"]);
    let address = server.udp_address("127.0.0.1:0").to_string();
    let client =
        run("mproxy-client", &["--path", "-", "--server-addr", &address], b"one\n\ntwo\0\xff\nthree");
    assert_eq!((client.code, client.stdout.len(), client.stderr.as_str()), (0, 0, ""));
    assert_eq!(file_with(path.as_ref(), 16), b"one\n\ntwo\0\xff\nthree");
    assert_eq!(server.writes(16), b"one\n\ntwo\0\xff\nthree");
    server.stop();
}
