//! What systemd wants to know (sd_notify): one datagram to the socket in NOTIFY_SOCKET, if there is one.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Tells systemd the state, as `READY=1`.
pub(super) fn notify(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&address.into_vec(), state) {
        tracing::warn!(%error, state, "cannot tell systemd");
    }
}

fn send(address: &[u8], state: &str) -> io::Result<()> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let name = format!("evenkeel-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).expect("a short name");
        let sockets = [
            (UnixDatagram::bind(&path).expect("free"), path.as_os_str().as_bytes().to_vec()),
            (UnixDatagram::bind_addr(&by_name).expect("free"), format!("@{name}").into_bytes()),
        ];
        for (socket, address) in sockets {
            send(&address, "READY=1").expect("somebody listens");
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], b"READY=1");
        }
    }
}
