//! What the state directory remembers of a volume: what must not be forgotten when its disk is lost or put back
//! (design D2, D6), and which peer has which index in its metadata.
//!
//! One small text file for each volume, replaced atomically. It may be behind the metadata, never ahead of them: a
//! counter that is remembered must have been stable on the disk before.
//!
//! ```text
//! # written by evenkeel: do not edit
//! node 1f00d5e8a3b4c2d1
//! cluster 5f0c…
//! volume 77ab…
//! attach 12
//! term 7 1f00d5e8a3b4c2d1
//! peers beta gamma
//! end
//! ```

use std::{
    cell::{Cell, RefCell},
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    rc::Rc,
};

use evenkeel_core::ids::{AttachCounter, ClusterId, NodeId, Term, VolumeId};
use thiserror::Error;

use super::abort;

/// The folder within the state directory.
const FOLDER: &str = "volumes";

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// This node's id within the volume; kept when the disk is made anew.
    pub(super) node: NodeId,
    /// Once agreed with a peer.
    pub(super) cluster: Option<ClusterId>,
    /// Once agreed with a peer.
    pub(super) volume: Option<VolumeId>,
    /// The last attach counter that was stable on the disk.
    pub(super) attach: AttachCounter,
    /// The highest term that was stable on the disk.
    pub(super) term: Option<Term>,
    /// The peers' names in the order of their indices; a name stays at its place for ever.
    pub(super) peers: Vec<String>,
}

/// The memory of a volume cannot be read or written.
#[derive(Debug, Error)]
#[error("{path}: {why}")]
pub(super) struct MemoryError {
    path: PathBuf,
    why: String,
}

/// Where the memory of a volume is kept.
#[derive(Clone, Debug)]
pub(super) struct MemoryFile {
    path: PathBuf,
}

impl MemoryFile {
    pub(super) fn new(state_dir: &Path, volume: &str) -> Self {
        Self { path: state_dir.join(FOLDER).join(volume) }
    }

    fn error(&self, why: impl ToString) -> MemoryError {
        MemoryError { path: self.path.clone(), why: why.to_string() }
    }

    /// What is remembered; `None` if the volume was never open here. Blocks.
    pub(super) fn read(&self) -> Result<Option<Memory>, MemoryError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => parse(&text).map(Some).map_err(|why| self.error(why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(format_args!("cannot be read: {error}"))),
        }
    }

    /// Replaces what is remembered, stably. Blocks.
    pub(super) fn write(&self, memory: &Memory) -> Result<(), MemoryError> {
        self.replace(memory).map_err(|error| self.error(format_args!("cannot be written: {error}")))
    }

    fn replace(&self, memory: &Memory) -> io::Result<()> {
        let folder = self.path.parent().expect("it lies in a folder");
        fs::create_dir_all(folder)?;
        let fresh = self.path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(print(memory).as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        fs::File::open(folder)?.sync_all()
    }
}

/// Writes what is to be remembered, one after the other and the newest last; what is replaced meanwhile is left out.
#[derive(Debug)]
pub(super) struct MemoryWriter {
    file: MemoryFile,
    next: RefCell<Option<Memory>>,
    is_writing: Cell<bool>,
}

impl MemoryWriter {
    pub(super) fn new(file: MemoryFile) -> Rc<Self> {
        Rc::new(Self { file, next: RefCell::default(), is_writing: Cell::new(false) })
    }

    /// Returns at once.
    pub(super) fn write(self: &Rc<Self>, memory: Memory) {
        *self.next.borrow_mut() = Some(memory);
        if self.is_writing.replace(true) {
            return;
        }
        let this = Rc::clone(self);
        abort::spawn(async move {
            while let Some(memory) = this.take_next() {
                let file = this.file.clone();
                match tokio::task::spawn_blocking(move || file.write(&memory)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "what this node is to remember is not"),
                    Err(error) => panic!("writing a file panicked: {error}"),
                }
            }
            this.is_writing.set(false);
        });
    }

    fn take_next(&self) -> Option<Memory> {
        self.next.borrow_mut().take()
    }
}

fn print(memory: &Memory) -> String {
    let id = |id: Option<u128>| id.map_or("-".to_owned(), |id| format!("{id:032x}"));
    format!(
        "# written by evenkeel: do not edit\nnode {:016x}\ncluster {}\nvolume {}\nattach {}\nterm {}\npeers {}\nend\n",
        memory.node.0,
        id(memory.cluster.map(|id| id.0)),
        id(memory.volume.map(|id| id.0)),
        memory.attach.0,
        memory.term.map_or("-".to_owned(), |term| format!("{} {:016x}", term.number, term.node.0)),
        memory.peers.join(" "),
    )
}

fn parse(text: &str) -> Result<Memory, String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut field = |name: &str| -> Result<String, String> {
        let line = lines.next().ok_or_else(|| format!("is cut off before '{name}'"))?;
        let (found, value) = line.split_once(' ').unwrap_or((line, ""));
        if found == name {
            Ok(value.to_owned())
        } else {
            Err(format!("has '{found}' in the place of '{name}'"))
        }
    };
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|error| format!("'{text}': {error}"));
    let id = |text: &str| match text {
        "-" => Ok(None),
        text => u128::from_str_radix(text, 16).map(Some).map_err(|error| format!("'{text}': {error}")),
    };
    let node = NodeId(number(&field("node")?)?);
    let cluster = id(&field("cluster")?)?.map(ClusterId);
    let volume = id(&field("volume")?)?.map(VolumeId);
    let attach = field("attach")?.parse().map_err(|error| format!("attach: {error}"))?;
    let term = match field("term")?.split_once(' ') {
        None => None,
        Some((count, node)) => Some(Term {
            number: count.parse().map_err(|error| format!("term: {error}"))?,
            node: NodeId(number(node)?),
        }),
    };
    let peers = field("peers")?.split_whitespace().map(str::to_owned).collect();
    field("end")?;
    if node.0 == 0 {
        return Err("has a node id of zero".into());
    }
    Ok(Memory { node, cluster, volume, attach: AttachCounter(attach), term, peers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory {
            node: NodeId(0x1f),
            cluster: Some(ClusterId(7)),
            volume: None,
            attach: AttachCounter(12),
            term: Some(Term { number: 3, node: NodeId(0x1f) }),
            peers: vec!["beta".into(), "gamma".into()],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = MemoryFile::new(folder.path(), "r0");
        assert_eq!(file.read().expect("nothing there"), None);
        for (peers, term) in [(memory().peers, memory().term), (Vec::new(), None)] {
            let memory = Memory { peers, term, ..memory() };
            file.write(&memory).expect("written");
            assert_eq!(file.read().expect("read"), Some(memory));
        }
    }

    #[test]
    fn a_torn_or_foreign_file_is_refused() {
        let whole = print(&memory());
        for end in 0..whole.len() - 1 {
            assert!(parse(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(parse(&whole.replace("node 000000000000001f", "node 0000000000000000")).is_err());
        assert!(parse(&whole.replace("attach 12", "attach x")).is_err());
    }
}
