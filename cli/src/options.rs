//! Options that every command takes: which configuration, whose, and where the daemon's files are (design section 8).

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError, OwnConfig};

/// See the module's head.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/evenkeel/evenkeel.toml")]
    pub(crate) config: PathBuf,
    /// Key, certificate, and the default place of data and metadata.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/evenkeel")]
    pub(crate) state_dir: PathBuf,
    /// Where the sockets of the running daemon are.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "EVENKEEL_RUN_DIR",
        default_value = "/run/evenkeel"
    )]
    pub(crate) run_dir: PathBuf,
    /// Which node of the configuration this machine is; the host name if not given.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

impl Options {
    /// The socket of the admin API.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    /// The socket of the NBD exports.
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.run_dir.join("nbd.sock")
    }

    /// The own node's name.
    pub(crate) fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }

    /// The own part of the configuration.
    pub(crate) fn own_config(&self) -> Result<OwnConfig, ConfigError> {
        Config::load(&self.config)?.own(&self.config, &self.node_name(), &self.state_dir)
    }
}
