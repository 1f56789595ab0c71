//! Opening, and making, the two files of a volume (design D1-D4): what may be created, what is refused, and why.
//!
//! Everything here blocks, so it runs beside the data thread, which gets only what was opened and locked.
//!
//! ```text
//!   data   metadata
//!   no     no        made anew: fresh, or Inconsistent if the state directory remembers the volume
//!   no     yes       refused: data-missing       (an unmounted disk must not become an empty volume)
//!   yes    no        refused: meta-missing, unless the operator says what the data are worth
//!   yes    yes       opened, if they fit together and are what this node remembers
//! ```
//!
//! New metadata are written under another name and renamed when they are whole and stable; so a crash leaves none
//! of them, or all.

use std::{
    fs, io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use evenkeel_core::{
    ids::{AttachCounter, GenerationId, NodeId, PeerIndex},
    meta::{
        geometry::{DEFAULT_SLOTS, Geometry},
        layout::{SUPERBLOCK_BYTES, SUPERBLOCK_STRIDE},
        superblock::Superblock,
        superblock_pair::{Expectations, OpenError as MetaError, SuperblockPair},
    },
    volume::{CreateSpec, Origin, create},
};

use super::{
    clock,
    handle::CreateOrigin,
    memory::{Memory, MemoryFile},
    problem::{Problem, ProblemCode},
    settings::VolumeSettings,
};
use crate::disk::{DiskFile, DiskKind, OpenError, OpenOptions};

/// The two files, opened and locked, and what is known about them.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) data: DiskFile,
    pub(super) meta: DiskFile,
    pub(super) memory: Memory,
    /// What was made, if something was, in words.
    pub(super) made: Option<&'static str>,
}

/// Opens the files of a volume, or makes them as rule D2 and the operator say. Blocks.
pub(super) fn open(
    settings: &VolumeSettings,
    memory_file: &MemoryFile,
    wish: Option<CreateOrigin>,
) -> Result<Files, Problem> {
    let cannot = |text: String, remedy: &str| problem(ProblemCode::CannotOpen, text, remedy);
    let memory = memory_file.read().map_err(|error| {
        cannot(
            error.to_string(),
            "mend or remove this file; without it the node forgets what it knows of the volume",
        )
    })?;
    let data_there = is_there(&settings.data)?;
    let meta_there = is_there(&settings.meta)? && !is_blank_device(&settings.meta)?;
    let shown = (settings.data.display(), settings.meta.display());
    let made = match (data_there, meta_there, wish) {
        (false, false, None) if memory.is_some() => {
            Some(("made anew, to be filled by a peer", Origin::Blank))
        }
        (false, false, None) => Some(("made anew", Origin::New)),
        (true, true, None) => None,
        (false, true, None) => {
            return Err(problem(
                ProblemCode::DataMissing,
                format!("the data {} are missing, but their metadata {} are there", shown.0, shown.1),
                "mount the disk that holds the data; if they are lost, remove the metadata too and start again: \
                 the volume is then filled by a peer",
            ));
        }
        (true, false, None) => {
            return Err(problem(
                ProblemCode::MetaMissing,
                format!("the metadata {} are missing, but the data {} are there", shown.1, shown.0),
                &format!(
                    "mount the disk that holds the metadata; or say what the data are worth: `evenkeel volume create \
                     {name} --adopt` (they are good) or `evenkeel volume create {name} --blank --yes {name}` \
                     (overwrite them from a peer)",
                    name = settings.name
                ),
            ));
        }
        (_, _, Some(CreateOrigin::Blank)) => Some(("made anew, to be filled by a peer", Origin::Blank)),
        (true, false, Some(CreateOrigin::Adopt)) => {
            check_length_of_adopted(settings)?;
            let id = clock::random_u128().map_err(|error| cannot(error.to_string(), "try again"))?;
            Some(("adopted", Origin::Adopted(GenerationId(id))))
        }
        (false, _, Some(CreateOrigin::Adopt)) => {
            return Err(problem(
                ProblemCode::DataMissing,
                format!("there are no data at {}", shown.0),
                "put the image there, or leave --adopt out",
            ));
        }
        (true, true, Some(CreateOrigin::Adopt)) => {
            return Err(cannot(
                format!("there are metadata at {} already", shown.1),
                "if these data are to begin a new history, remove the metadata first",
            ));
        }
    };
    let peers = match made {
        Some(_) => settings.peers.clone(),
        None => peers_in_order(settings, memory.as_ref())?,
    };
    // What is adopted begins a history of its own: it is no older or newer state of the copy that was here.
    let (memory, former_term) = match made {
        Some((_, Origin::Adopted(_))) => (None, memory.and_then(|memory| memory.term)),
        Some((_, Origin::New | Origin::Blank)) | None => (memory, None),
    };
    if let Some((how, origin)) = made {
        make(settings, memory.as_ref(), peers.len(), origin, data_there)?;
        tracing::info!(volume = settings.name, data = %shown.0, meta = %shown.1, "{how}");
    }
    let opened = open_both(settings)?;
    let superblock = examine(settings, &opened, memory.as_ref())?;
    let memory = Memory {
        node: superblock.node,
        cluster: superblock.cluster,
        volume: superblock.volume,
        attach: memory.as_ref().map_or(AttachCounter(0), |memory| memory.attach),
        term: memory.map_or(former_term, |memory| memory.term),
        peers,
    };
    Ok(Files { data: opened.0, meta: opened.1, memory, made: made.map(|(how, _)| how) })
}

/// What is adopted is good, so all of it: what lies behind the volume's end would be overwritten when it grows.
fn check_length_of_adopted(settings: &VolumeSettings) -> Result<(), Problem> {
    let path = &settings.data;
    let length = fs::File::open(path).and_then(|mut file| io::Seek::seek(&mut file, io::SeekFrom::End(0)));
    let length = length.map_err(|error| system(path, "measure it", &error))?;
    if length <= settings.size_bytes {
        return Ok(());
    }
    Err(problem(
        ProblemCode::SizeDiffers,
        format!(
            "{} has {length} bytes, and the configuration says {}: the rest would not be part of the volume",
            path.display(),
            settings.size_bytes
        ),
        &format!("set `size` to {length} on every node; or shorten the data, if nothing is behind that"),
    ))
}

/// The peers' names by index, as they were when the metadata were made. Only then there is a bitmap for each.
fn peers_in_order(settings: &VolumeSettings, memory: Option<&Memory>) -> Result<Vec<String>, Problem> {
    let Some(memory) = memory else { return Ok(settings.peers.clone()) };
    let same = memory.peers.len() == settings.peers.len()
        && memory.peers.iter().all(|peer| settings.peers.contains(peer));
    if same { Ok(memory.peers.clone()) } else { Err(peers_changed(settings, &memory.peers.join(", "))) }
}

fn peers_changed(settings: &VolumeSettings, made_for: &str) -> Problem {
    let name = &settings.name;
    problem(
        ProblemCode::PeersChanged,
        format!(
            "the metadata were made for these peers: {made_for}; the configuration has: {}",
            settings.peers.join(", ")
        ),
        &format!(
            "put the former nodes back into the configuration, or make this copy anew with `evenkeel volume create \
             {name} --blank --yes {name}` while another node has a good one"
        ),
    )
}

fn problem(code: ProblemCode, text: String, remedy: &str) -> Problem {
    Problem { code, peer: None, text, remedy: remedy.to_owned() }
}

fn system(path: &Path, what: &str, error: &io::Error) -> Problem {
    problem(
        ProblemCode::CannotOpen,
        format!("{}: cannot {what}: {error}", path.display()),
        "mend that, then `evenkeel reload`",
    )
}

fn is_there(path: &Path) -> Result<bool, Problem> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = folder_of(path);
            if folder.is_dir() {
                return Ok(false);
            }
            // Never made by us: it is where a disk is mounted.
            Err(problem(
                ProblemCode::CannotOpen,
                format!("{}: the folder {} does not exist", path.display(), folder.display()),
                "mount the disk, or make the folder",
            ))
        }
        Err(error) => Err(system(path, "look at it", &error)),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// A device is always there; one without a superblock holds no metadata.
fn is_blank_device(path: &Path) -> Result<bool, Problem> {
    if !is_device(path) {
        return Ok(false);
    }
    let [a, b] = read_superblocks(path)?;
    Ok([a, b].iter().all(|copy| copy.as_ref().is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))))
}

/// Both copies as they are; `None` for one that cannot be read.
fn read_superblocks(path: &Path) -> Result<[Option<Vec<u8>>; 2], Problem> {
    let file = fs::File::open(path).map_err(|error| system(path, "open it", &error))?;
    Ok([0, SUPERBLOCK_STRIDE].map(|offset| {
        let mut copy = vec![0; SUPERBLOCK_BYTES];
        file.read_exact_at(&mut copy, offset).is_ok().then_some(copy)
    }))
}

/// Makes the metadata, and the data where there are none.
fn make(
    settings: &VolumeSettings,
    memory: Option<&Memory>,
    peers: usize,
    origin: Origin,
    data_there: bool,
) -> Result<(), Problem> {
    let refused = |text: String| problem(ProblemCode::CannotOpen, text, "correct the configuration");
    let geometry =
        Geometry::new(settings.size_bytes, settings.block_bytes, settings.al_extent_bytes, DEFAULT_SLOTS)
            .map_err(|error| refused(error.to_string()))?;
    let node = match memory {
        Some(memory) => memory.node,
        None => NodeId(clock::random_u64().map_err(|error| refused(error.to_string()))?),
    };
    let stages =
        create(&CreateSpec { node, geometry, peers, origin }).map_err(|error| refused(error.to_string()))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| system(&path, "make it", &error)
    };
    let meta = &settings.meta;
    let place = if is_device(meta) { meta.clone() } else { beside(meta) };
    let written = write_stages(&place, stages);
    if written.is_err() && place != *meta {
        // It was ours alone; what cannot be removed is overwritten the next time.
        let _ = fs::remove_file(&place);
    }
    written.map_err(failed(meta))?;
    if data_there && origin == Origin::Blank {
        fit_data(settings)?;
    }
    if !data_there {
        let options = OpenOptions {
            path: settings.data.clone(),
            size_bytes: Some(settings.size_bytes),
            read_only: false,
        };
        DiskFile::open(&options).map_err(|error| disk_problem(&error))?;
    }
    if place != *meta {
        fs::rename(&place, meta)
            .and_then(|()| fs::File::open(folder_of(meta))?.sync_all())
            .map_err(failed(meta))?;
    }
    Ok(())
}

/// Data that are to be overwritten get the size of the volume, if they are a file of another one.
fn fit_data(settings: &VolumeSettings) -> Result<(), Problem> {
    let path = &settings.data;
    let failed = |error: io::Error| system(path, "give it the size of the volume", &error);
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_file() && metadata.len() != settings.size_bytes {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.set_len(settings.size_bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// The name under which new metadata are written.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Writes each stage and makes it stable before the next.
fn write_stages(path: &Path, stages: Vec<Vec<(u64, Bytes)>>) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    for stage in stages {
        for (offset, bytes) in stage {
            file.write_all_at(&bytes, offset)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Opens and locks data and metadata. A file of data that is larger than the configuration says is another one; a
/// smaller one is held against its metadata ([`examine`]), as the configuration may be ahead of a volume that is to grow.
fn open_both(settings: &VolumeSettings) -> Result<(DiskFile, DiskFile), Problem> {
    let open = |path: &Path| {
        let options = OpenOptions { path: path.to_owned(), size_bytes: None, read_only: false };
        DiskFile::open(&options).map_err(|error| disk_problem(&error))
    };
    let empty = |file: &str, path: &Path| {
        let text = format!("the {file} {} are empty: they were truncated", path.display());
        problem(ProblemCode::Truncated, text, &anew(&settings.name))
    };
    for (file, path) in [("data", &settings.data), ("metadata", &settings.meta)] {
        if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) {
            return Err(empty(file, path));
        }
    }
    let (data, meta) = (open(&settings.data)?, open(&settings.meta)?);
    if data.shape().kind == DiskKind::File && data.size_bytes() > settings.size_bytes {
        return Err(problem(
            ProblemCode::SizeDiffers,
            format!(
                "{} has {} bytes, and the configuration says {}",
                settings.data.display(),
                data.size_bytes(),
                settings.size_bytes
            ),
            "correct `size` in the configuration (a growth that was given up leaves the file with the size that it was to get), \
             or put the right file there",
        ));
    }
    Ok((data, meta))
}

/// Reads the superblock and holds it against what this node remembers and what the configuration says.
fn examine(
    settings: &VolumeSettings,
    (data, meta): &(DiskFile, DiskFile),
    memory: Option<&Memory>,
) -> Result<Superblock, Problem> {
    let expectations = Expectations {
        metadata_bytes: meta.size_bytes(),
        data_bytes: Some(data.size_bytes()),
        cluster: memory.and_then(|memory| memory.cluster),
        volume: memory.and_then(|memory| memory.volume),
        node: memory.map(|memory| memory.node),
        ..Expectations::default()
    };
    let [a, b] = read_superblocks(&settings.meta)?;
    let opened = SuperblockPair::open(a.as_deref(), b.as_deref(), &expectations)
        .map_err(|error| meta_problem(settings, &error))?;
    let superblock = opened.pair.current().clone();
    let geometry = superblock.layout.geometry();
    let (size, block, extent) = (geometry.size_bytes(), geometry.block_bytes(), geometry.extent_bytes());
    if size < settings.size_bytes {
        tracing::info!(
            volume = settings.name,
            size,
            configured = settings.size_bytes,
            "the volume is smaller than the configuration allows: `evenkeel resize` makes it grow"
        );
    }
    let checks = [
        ("size", size <= settings.size_bytes, size, settings.size_bytes),
        ("block_size", block == settings.block_bytes, block.into(), settings.block_bytes.into()),
        ("al_extent", extent == settings.al_extent_bytes, extent.into(), settings.al_extent_bytes.into()),
    ];
    for (what, fits, made, configured) in checks {
        if !fits {
            return Err(problem(
                ProblemCode::SizeDiffers,
                format!(
                    "the metadata were made for a {what} of {made} bytes, and the configuration says {configured}"
                ),
                &format!("correct `{what}` in the configuration"),
            ));
        }
    }
    let made_for = PeerIndex::all().filter(|&peer| superblock.layout.bitmap(peer).is_some()).count();
    if made_for != settings.peers.len() {
        return Err(peers_changed(settings, &format!("{made_for} of them")));
    }
    Ok(superblock)
}

/// A file or device that cannot be opened, for the operator.
fn disk_problem(error: &OpenError) -> Problem {
    let (code, remedy) = match error {
        OpenError::InUse { .. } => (ProblemCode::Busy, "stop what uses it, then `evenkeel reload`"),
        OpenError::Missing { .. } => (ProblemCode::DataMissing, "mount the disk that it is on"),
        OpenError::Empty { .. } => (ProblemCode::Truncated, "put the right file or device there"),
        OpenError::SizeDiffers { .. } => (ProblemCode::SizeDiffers, "correct `size` in the configuration"),
        OpenError::Unsuitable { .. } | OpenError::System { .. } => {
            (ProblemCode::CannotOpen, "mend that, then `evenkeel reload`")
        }
    };
    problem(code, error.to_string(), remedy)
}

/// Metadata that cannot be opened, for the operator.
pub(super) fn meta_problem(settings: &VolumeSettings, error: &MetaError) -> Problem {
    let code = match error {
        MetaError::NotCreated | MetaError::NoGoodCopy { .. } => ProblemCode::MetaDamaged,
        MetaError::Refused { .. } | MetaError::Mixed => ProblemCode::Swapped,
        MetaError::Foreign { .. } => ProblemCode::Foreign,
        MetaError::Older { .. } => ProblemCode::Older,
        MetaError::MetadataTruncated { .. } | MetaError::DataTruncated { .. } => ProblemCode::Truncated,
        MetaError::TakenOver { .. } => ProblemCode::Busy,
    };
    let path = match error {
        MetaError::DataTruncated { .. } => &settings.data,
        _ => &settings.meta,
    };
    problem(code, format!("{}: {error}", path.display()), &anew(&settings.name))
}

/// What helps when a copy is not what it should be.
fn anew(volume: &str) -> String {
    format!(
        "put the right disk or file there; if it is lost: `evenkeel volume create {volume} --blank --yes {volume}`, and \
         a peer fills it"
    )
}
