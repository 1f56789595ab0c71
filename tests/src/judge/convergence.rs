//! O5: the images of all nodes are equal at the end, and a resync moved no more than it had to.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{
    Clock, Promise, Rule, Snapshot, Violation,
    tag::{SECTOR, Value, value, values},
};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;

/// Reads a raw image whole (design rule D1: it is plain). Holes are zeroes and are not read.
///
/// # Errors
/// The file cannot be read, or is no whole number of sectors.
pub fn snapshot(node: &str, image: &Path, volume: u32, promise: Promise, clock: &Clock) -> Result<Snapshot> {
    let from = clock.now();
    let mut sectors = BTreeMap::new();
    each_piece(image, |offset, bytes| {
        let first = offset / SECTOR as u64;
        for (sector, value) in (first..).zip(values(volume, first, bytes)) {
            if value != Value::Zero {
                sectors.insert(sector, value);
            }
        }
        Ok(())
    })?;
    Ok(Snapshot { node: node.to_owned(), promise, from, until: clock.now(), sectors })
}

/// Checks that two raw images are equal, byte by byte.
///
/// # Errors
/// They differ: the text tells the first sector that does and what each holds; or one cannot be read.
pub fn images_equal(volume: u32, one: &Path, other: &Path) -> Result<()> {
    let (length, other_length) = (one.metadata()?.len(), other.metadata()?.len());
    ensure!(
        length == other_length,
        "{}: {} has {length} bytes, {} has {other_length}",
        Rule::Convergence,
        one.display(),
        other.display()
    );
    // Each way, because only what is no hole is looked at.
    for (one, other) in [(one, other), (other, one)] {
        let file = File::open(other)?;
        each_piece(one, |offset, bytes| {
            let mut same = vec![0; bytes.len()];
            file.read_exact_at(&mut same, offset)?;
            let Some(at) = bytes.iter().zip(&same).position(|(one, other)| one != other) else {
                return Ok(());
            };
            let at = at / SECTOR * SECTOR;
            let sector = (offset + at as u64) / SECTOR as u64;
            let held = |bytes: &[u8]| value(volume, sector, &bytes[at..at + SECTOR]);
            anyhow::bail!(
                "{}: sector {sector} of {} holds {}, of {} {}",
                Rule::Convergence,
                one.display(),
                held(bytes),
                other.display(),
                held(&same)
            );
        })?;
    }
    Ok(())
}

/// Checks that a resync did not do more than it had to.
///
/// # Errors
/// It did.
pub fn moved_at_most(what: &str, bytes: u64, limit: u64) -> Result<(), Violation> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Violation {
        rule: Rule::Convergence,
        sector: None,
        text: format!("{what}: {bytes} bytes, but at most {limit} could differ"),
        at: super::Moment::NEVER,
    })
}

/// Goes over the parts of a file that are no holes, in pieces of whole sectors.
fn each_piece(path: &Path, mut look: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata()?.len();
    ensure!(length.is_multiple_of(SECTOR as u64), "{} has {length} bytes: no whole sectors", path.display());
    let mut buffer = vec![0; usize::try_from(PIECE)?];
    let mut at = 0;
    while at < length {
        // ENXIO: there is nothing but a hole from here on.
        let begin = match seek(&file, SeekFrom::Data(at)) {
            Ok(begin) => begin / PIECE * PIECE,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let piece = &mut buffer[..usize::try_from(PIECE.min(length - begin))?];
        file.read_exact_at(piece, begin)?;
        look(begin, piece)?;
        at = begin + PIECE;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{WriteId, tag::content};

    const ID: WriteId = WriteId { client: 1, number: 1 };

    fn image(folder: &Path, name: &str, place: u64) -> Result<std::path::PathBuf> {
        let path = folder.join(name);
        let file = File::create(&path)?;
        file.set_len(64 << 20)?;
        file.write_all_at(&content(7, ID, place, 3), place * SECTOR as u64)?;
        Ok(path)
    }

    #[test]
    fn an_image_is_read_whole() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = image(folder.path(), "a", 100_000)?;
        let snapshot = snapshot("alpha", &path, 7, Promise::Answered, &Clock::start())?;
        assert_eq!(snapshot.sectors.len(), 3);
        assert_eq!(*snapshot.value(100_002), Value::Written(ID));
        assert_eq!(*snapshot.value(0), Value::Zero);
        Ok(())
    }

    #[test]
    fn a_difference_is_found_from_both_sides() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let one = image(folder.path(), "a", 5000)?;
        let same = image(folder.path(), "b", 5000)?;
        images_equal(7, &one, &same)?;
        let empty = folder.path().join("c");
        File::create(&empty)?.set_len(64 << 20)?;
        for (one, other) in [(&one, &empty), (&empty, &one)] {
            let text = images_equal(7, one, other).expect_err("they differ").to_string();
            assert!(
                text.contains("sector 5000") && text.contains("zeroes") && text.contains("write 1.1"),
                "{text}"
            );
        }
        let short = folder.path().join("d");
        File::create(&short)?.set_len(32 << 20)?;
        assert!(images_equal(7, &one, &short).is_err());
        Ok(())
    }

    #[test]
    fn a_resync_that_moves_too_much_is_found() {
        assert!(moved_at_most("moved", 4096, 4096).is_ok());
        let violation = moved_at_most("moved", 4097, 4096).expect_err("too much");
        assert_eq!(violation.rule, Rule::Convergence);
    }
}
