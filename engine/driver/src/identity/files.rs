//! Files of the state directory that hold an identity: made whole or not at all, never replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use ring::rand::SecureRandom;

use super::IdentityError;

/// Larger files are no keys and no certificates of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |error| IdentityError::Io { action, path: path.into(), error }
}

/// Makes the directory and its parents, for its owner only, if it is not there.
pub(super) fn create_directory(path: &Path) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("cannot make the directory", path))
}

/// The content, or nothing if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    read_all(&file, path).map(Some)
}

/// As [`read`], of a file that nobody else may read.
pub(super) fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let meta = file.metadata().map_err(failed("cannot look at", path))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.into(), mode });
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user && user != 0 {
        return Err(IdentityError::Foreign { path: path.into(), owner: meta.uid(), user });
    }
    read_all(&file, path).map(Some)
}

fn open(path: &Path) -> Result<Option<File>, IdentityError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot open", path)(error)),
    }
}

fn read_all(file: &File, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(failed("cannot read", path))?;
    Ok(content)
}

/// Makes a file with this content, stable. An existing one stays as it is.
pub(super) fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    // A name of its own, so that what an earlier process left there is not in the way.
    let mut name = [0; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut name)
        .map_err(|_| failed("no randomness for a draft of", path)(io::ErrorKind::Other.into()))?;
    let draft = path.with_extension(format!("draft-{}", hex::encode(name)));
    let result = create_through(&draft, path, content, mode);
    // Nothing is lost if the draft stays: it has a name of its own, and the mode of the file.
    let _ = fs::remove_file(&draft);
    result
}

fn create_through(draft: &Path, path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(draft)
        .map_err(failed("cannot make", draft))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("cannot write", draft))?;
    match fs::hard_link(draft, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("cannot make", path)(error)),
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("cannot sync", directory))
}
