//! `evenkeel serve` as a process: what it prints, how it ends, what it refuses and with which exit code. What
//! clients see is tested from outside, in the crate `tests`.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running server that has said that it serves. Killed on drop.
struct Server {
    child: Child,
    line: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).env("RUST_LOG", "info").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(arguments: &[&str]) -> Server {
    let mut child = command(arguments).spawn().expect("the binary under test");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("readable");
    let mut server = Server { child, line: line.trim_end().to_owned() };
    if server.line.is_empty() {
        panic!("the server did not serve: {}", server.errors());
    }
    server
}

impl Server {
    fn errors(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.as_mut().expect("piped").read_to_string(&mut text).expect("text");
        text
    }

    /// Ends it by `signal`; the exit code and the log.
    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        let errors = self.errors();
        let status = self.child.wait().expect("a child");
        (status.code(), errors)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = command(arguments).output().expect("the binary under test");
    let text = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(code), "{text}");
    assert!(stdout.is_empty(), "errors do not go to stdout");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are plain")
}

#[test]
fn serves_until_it_is_told_to_stop_and_leaves_nothing_behind() {
    for (backend, signal) in [("io_uring", Signal::TERM), ("pread", Signal::INT)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (image, socket) = (folder.path().join("disk.img"), folder.path().join("nbd.sock"));
        let (image, socket) = (text(&image), text(&socket));
        let server = start(&[
            "serve",
            "--size",
            "64MiB",
            image,
            "--socket",
            socket,
            "--export",
            "r0",
            "--disk-backend",
            backend,
        ]);
        assert_eq!(server.line, format!("serving r0 (64 MiB) on {socket}"));
        assert_eq!(fs::metadata(image).expect("created").len(), 64 << 20);
        let mut client = UnixStream::connect(socket).expect("it serves");
        let mut greeting = [0; 18];
        client.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        let (code, log) = server.stop(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains(&format!("backend={backend}")), "{log}");
        assert!(log.contains("stopping") && log.contains("everything is stable"), "{log}");
        assert!(!Path::new(socket).exists(), "the socket is removed");
    }
}

#[test]
fn a_socket_that_a_kill_left_behind_is_replaced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, socket) = (folder.path().join("disk.img"), folder.path().join("nbd.sock"));
    let arguments = ["serve", text(&image), "--size", "1MiB", "--socket", text(&socket)];
    let (code, _) = start(&arguments).stop(Signal::KILL);
    assert_eq!(code, None, "killed");
    assert!(fs::symlink_metadata(&socket).expect("left behind").file_type().is_socket());
    let server = start(&arguments);
    UnixStream::connect(&socket).expect("it serves");
    assert_eq!(server.stop(Signal::TERM).0, Some(0));
}

#[test]
fn tcp_is_served_on_loopback_and_the_port_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("disk.img");
    let server = start(&["serve", text(&image), "--size", "1000000", "--tcp", "127.0.0.1:0"]);
    let address = server.line.strip_prefix("serving disk (1000000 bytes) on ").expect("the line");
    std::net::TcpStream::connect(address).expect("it serves");
    assert_eq!(server.stop(Signal::TERM).0, Some(0));
}

#[test]
fn refusals_name_the_thing_the_place_and_the_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, socket) = (folder.path().join("disk.img"), folder.path().join("nbd.sock"));
    let other_socket = folder.path().join("other.sock");
    let (image, socket, other_socket) = (text(&image), text(&socket), text(&other_socket));

    let missing = refused(&["serve", image, "--socket", socket], 3);
    assert!(missing.contains(image) && missing.contains("--size"), "{missing}");
    assert!(refused(&["serve", image], 2).contains("--socket"));
    assert!(refused(&["serve", image, "--tcp", "192.0.2.1:10809"], 2).contains("not encrypted"));

    let server = start(&["serve", image, "--size", "1MiB", "--socket", socket]);
    let in_use = refused(&["serve", image, "--socket", other_socket], 4);
    let holder = format!("process {} (evenkeel)", server.child.id());
    assert!(in_use.contains(image) && in_use.contains(&holder), "{in_use}");
    assert!(!Path::new(other_socket).exists());
    let second = folder.path().join("second.img");
    let taken = refused(&["serve", text(&second), "--size", "1MiB", "--socket", socket], 4);
    assert!(taken.contains(socket), "{taken}");
    assert_eq!(server.stop(Signal::TERM).0, Some(0));

    let differs = refused(&["serve", image, "--size", "2MiB", "--socket", socket], 4);
    assert!(differs.contains("1048576") && differs.contains("2097152"), "{differs}");
    let folder_refused = refused(&["serve", text(folder.path()), "--socket", socket], 4);
    assert!(folder_refused.contains("directory"), "{folder_refused}");
    let nowhere = refused(&["serve", "/no/such/folder/disk.img", "--size", "1MiB", "--socket", socket], 6);
    assert!(nowhere.contains("/no/such/folder/disk.img"), "{nowhere}");
}
