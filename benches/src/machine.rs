//! The facts without which a figure means nothing.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

/// What the figures were taken on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Name of the processor.
    pub processor: String,
    /// File system and device of the image.
    pub file_system: String,
    /// Load average of the last minute before the run: others at work make figures worthless.
    pub load_before: String,
}

impl Machine {
    /// Looks around; `folder` is where the image lies. What cannot be found out is "unknown".
    #[must_use]
    pub fn look(folder: &Path) -> Self {
        let unknown = || "unknown".to_owned();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_else(unknown);
        let file_system = Command::new("df")
            .args(["--output=fstype,source"])
            .arg(folder)
            .output()
            .ok()
            .and_then(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                Some(text.lines().nth(1)?.split_whitespace().collect::<Vec<_>>().join(" on "))
            })
            .unwrap_or_else(unknown);
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor,
            file_system,
            load_before: read("/proc/loadavg").split(' ').next().map_or_else(unknown, str::to_owned),
        }
    }
}
