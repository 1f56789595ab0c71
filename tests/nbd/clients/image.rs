//! Files with known content, and their comparison.

use std::{fs, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, bail, ensure};

/// Runs of this length are data, zeroes or a hole in turn.
const RUN: usize = 64 << 10;

/// Makes an image of `size` bytes with all that a copy must get right: data, zeroes that were written, holes,
/// and a run of data that begins and ends at an odd byte. `seed` makes images differ from each other.
pub(crate) fn create(path: &Path, size: u64, seed: u64) -> Result<()> {
    create_with_gaps(path, size, seed, u64::MAX)
}

/// As [`create`], but only the first 4 MiB after each multiple of `gap` hold anything: a large image at low cost.
pub(crate) fn create_with_gaps(path: &Path, size: u64, seed: u64, gap: u64) -> Result<()> {
    let file = fs::File::create(path)?;
    file.set_len(size)?;
    let mut random = Random::new(seed);
    for (index, offset) in (0..size).step_by(RUN).enumerate() {
        if gap != u64::MAX && offset % gap >= 4 << 20 {
            continue;
        }
        let len = usize::try_from(size - offset).map_or(RUN, |rest| rest.min(RUN));
        match index % 4 {
            0 => file.write_all_at(&random.bytes(len), offset)?,
            1 => file.write_all_at(&vec![0; len], offset)?,
            2 => {}
            _ => file.write_all_at(&random.bytes(len / 4), offset + 777)?,
        }
    }
    ensure!(file.metadata()?.len() == size, "a run passed the end of the image");
    Ok(())
}

/// Fails with the first byte at which two files differ.
pub(crate) fn assert_equal(left: &Path, right: &Path) -> Result<()> {
    let open = |path: &Path| fs::File::open(path).with_context(|| path.display().to_string());
    let (a, b) = (open(left)?, open(right)?);
    let (a_size, b_size) = (a.metadata()?.len(), b.metadata()?.len());
    ensure!(a_size == b_size, "{}: {a_size} bytes, {}: {b_size}", left.display(), right.display());
    let (mut a_bytes, mut b_bytes) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < a_size {
        let len = usize::try_from(a_size - offset).map_or(1 << 20, |rest| rest.min(1 << 20));
        a.read_exact_at(&mut a_bytes[..len], offset)?;
        b.read_exact_at(&mut b_bytes[..len], offset)?;
        if a_bytes[..len] != b_bytes[..len] {
            let at = a_bytes.iter().zip(&b_bytes).position(|(a, b)| a != b).unwrap_or_default() as u64;
            bail!("{} and {} differ from byte {} on", left.display(), right.display(), offset + at);
        }
        offset += len as u64;
    }
    Ok(())
}

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
