//! O1, O4, O8: every sector is a linearizable register, two reads agree, and no read shows foreign bytes.
//!
//! Values are unique (a sector names its write), so the check is exact and cheap (Gibbons and Korach): all
//! operations on one value form a *zone* from the first end of any of them to the last start of any of them. One
//! value was certainly replaced by another when the first's zone begins before the second's ends; a history is
//! linearizable exactly when no two values were certainly replaced by each other. A read of a write that nobody
//! acknowledged gives that write an end, so it can never disappear again.
//!
//! Zeroes are not unique: a sector of zeroes is taken for whichever zeroing (or the blank beginning) fits.

use crate::payload::{Value, WriteId};

/// Never.
pub(crate) const NEVER: u64 = u64::MAX;

/// All operations on one value of one sector. Times are stamps: the n-th thing that the oracle saw.
#[derive(Clone, Copy, Debug)]
struct Zone {
    write: WriteId,
    zero: bool,
    /// The first end of an operation on this value.
    end: u64,
    /// The last start of one.
    start: u64,
    /// The write was sent again, and that was answered at this time: if it ever took effect, then before.
    lapse: u64,
}

impl Zone {
    /// Whether this value was certainly there before `other`.
    fn before(&self, other: &Self) -> bool {
        self.end < other.start
    }
}

/// The write that stands for the blank beginning.
const BEGINNING: WriteId = WriteId(0);

/// All sectors.
#[derive(Debug)]
pub(crate) struct Register {
    sectors: Vec<Vec<Zone>>,
    /// Reads that began before this stamp are not judged: the truth was settled anew.
    pub(crate) base: u64,
}

/// What is wrong with a value, in words.
pub(crate) type Wrong = String;

impl Register {
    pub(crate) fn new(sectors: usize) -> Self {
        let beginning = Zone { write: BEGINNING, zero: true, end: 0, start: 0, lapse: NEVER };
        Self { sectors: vec![vec![beginning]; sectors], base: 0 }
    }

    /// A write or zeroing of one sector is submitted. `oldest_read`: no read under way began before it.
    pub(crate) fn submit(&mut self, sector: usize, write: WriteId, zero: bool, now: u64, oldest_read: u64) {
        let zones = &mut self.sectors[sector];
        if zones.len() >= 6 {
            prune(zones, oldest_read);
        }
        zones.push(Zone { write, zero, end: NEVER, start: now, lapse: NEVER });
    }

    /// A write or zeroing of one sector is acknowledged.
    pub(crate) fn acknowledge(&mut self, sector: usize, write: WriteId, now: u64) -> Result<(), Wrong> {
        let zones = &mut self.sectors[sector];
        let Some(place) = zones.iter().position(|zone| zone.write == write) else { return Ok(()) };
        zones[place].end = zones[place].end.min(now);
        conflict(zones, place)
    }

    /// A write or zeroing of one sector was sent again, as another one that is answered now. What was sent first may
    /// have taken effect until now, or never; not from now on, or a resent request would overtake later ones (W1).
    pub(crate) fn lapse(&mut self, sector: usize, write: WriteId, now: u64) {
        if let Some(zone) = self.sectors[sector].iter_mut().find(|zone| zone.write == write) {
            zone.lapse = zone.lapse.min(now);
        }
    }

    /// A read that began at `start` returns this value now.
    pub(crate) fn read(&mut self, sector: usize, value: Value, start: u64, now: u64) -> Result<(), Wrong> {
        let zones = &mut self.sectors[sector];
        match value {
            Value::Foreign => Err("the bytes are of no write, or of another place".to_owned()),
            Value::Of(write) => {
                let Some(place) = zones.iter().position(|zone| zone.write == write && !zone.zero) else {
                    return Err(format!("write {} was replaced long ago, lost, or never made here", write.0));
                };
                widen(&mut zones[place], start, now);
                conflict(zones, place)
            }
            Value::Zero => {
                let fits: Vec<usize> = (0..zones.len())
                    .filter(|place| zones[*place].zero)
                    .filter(|place| {
                        let mut trial = zones[*place];
                        widen(&mut trial, start, now);
                        !zones.iter().any(|zone| {
                            zone.write != trial.write && zone.before(&trial) && trial.before(zone)
                        })
                    })
                    .collect();
                match fits.as_slice() {
                    [] => Err("zeroes, but what was written here last was not zeroed".to_owned()),
                    [only] => {
                        widen(&mut zones[*only], start, now);
                        Ok(())
                    }
                    [..] => Ok(()),
                }
            }
        }
    }

    /// Why an image with this value in this sector lacks something acknowledged (or read), if it does.
    pub(crate) fn lacks(&self, sector: usize, value: Value) -> Option<Wrong> {
        let zones = &self.sectors[sector];
        let newer = |zone: &Zone| {
            let end = zone.end.min(zone.lapse);
            zones.iter().find(|other| other.write != zone.write && other.end != NEVER && end < other.start)
        };
        match value {
            Value::Foreign => Some("the bytes are of no write, or of another place".to_owned()),
            Value::Of(write) => match zones.iter().find(|zone| zone.write == write && !zone.zero) {
                None => Some(format!("write {} was replaced long ago, lost, or never made here", write.0)),
                Some(zone) => {
                    newer(zone).map(|other| format!("write {} lies before write {}", write.0, other.write.0))
                }
            },
            Value::Zero => {
                let fits = zones.iter().any(|zone| zone.zero && newer(zone).is_none());
                (!fits).then(|| "zeroes, but what was written here last was not zeroed".to_owned())
            }
        }
    }

    /// Settles the truth anew: this value is there, whatever was acknowledged before. Writes that nobody has
    /// acknowledged may still come.
    pub(crate) fn settle(&mut self, sector: usize, value: Value, now: u64) {
        let zones = &mut self.sectors[sector];
        let (write, zero) = match value {
            Value::Of(write) => (write, false),
            Value::Zero | Value::Foreign => {
                let last = zones.iter().filter(|zone| zone.zero).max_by_key(|zone| zone.start);
                (last.map_or(BEGINNING, |zone| zone.write), true)
            }
        };
        zones.retain(|zone| zone.end == NEVER && zone.write != write);
        zones.push(Zone { write, zero, end: now, start: now, lapse: NEVER });
    }
}

fn widen(zone: &mut Zone, start: u64, now: u64) {
    zone.start = zone.start.max(start);
    zone.end = zone.end.min(now).min(zone.lapse);
}

fn conflict(zones: &[Zone], place: usize) -> Result<(), Wrong> {
    let zone = &zones[place];
    for (other_place, other) in zones.iter().enumerate() {
        if other_place != place && zone.before(other) && other.before(zone) {
            return Err(format!(
                "write {} and write {} were each seen to replace the other",
                zone.write.0, other.write.0
            ));
        }
    }
    Ok(())
}

/// Forgets values that no read can return any more without being wrong.
fn prune(zones: &mut Vec<Zone>, oldest_read: u64) {
    let ended = zones.iter().filter(|zone| zone.end < oldest_read);
    let Some(last) = ended.max_by_key(|zone| zone.start).copied() else { return };
    zones.retain(|zone| zone.write == last.write || zone.end.min(zone.lapse) >= last.start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(write: u32) -> Value {
        Value::Of(WriteId(write))
    }

    fn written(register: &mut Register, write: u32, start: u64, end: u64) {
        register.submit(0, WriteId(write), false, start, 0);
        register.acknowledge(0, WriteId(write), end).expect("fits");
    }

    #[test]
    fn a_read_sees_the_last_write_or_one_under_way() {
        let mut register = Register::new(1);
        written(&mut register, 1, 1, 2);
        register.submit(0, WriteId(2), false, 3, 0);
        register.read(0, of(1), 4, 5).expect("the second is under way");
        register.read(0, of(2), 4, 6).expect("it may be seen");
        assert!(register.read(0, of(1), 7, 8).is_err(), "once seen it does not disappear");
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut register = Register::new(1);
        written(&mut register, 1, 1, 2);
        written(&mut register, 2, 3, 4);
        assert!(register.read(0, of(1), 5, 6).is_err());
        let mut register = Register::new(1);
        written(&mut register, 1, 1, 2);
        assert!(register.read(0, Value::Zero, 3, 4).is_err());
        assert!(register.lacks(0, Value::Zero).is_some());
        assert!(register.lacks(0, of(1)).is_none());
    }

    #[test]
    fn a_write_that_was_sent_again_may_take_effect_twice_but_not_after_the_answer() {
        let twice = || {
            let mut register = Register::new(1);
            register.submit(0, WriteId(1), false, 1, 0);
            written(&mut register, 2, 2, 3);
            register.submit(0, WriteId(3), false, 4, 0);
            register.acknowledge(0, WriteId(3), 5).expect("the first one again");
            register.lapse(0, WriteId(1), 5);
            register
        };
        let mut register = twice();
        register.read(0, of(1), 6, 7).expect("the first one may have come last");
        let mut register = twice();
        written(&mut register, 4, 6, 7);
        register.read(0, of(4), 8, 9).expect("the last");
        assert!(register.lacks(0, of(1)).is_some());
        assert!(register.read(0, of(1), 10, 11).is_err(), "the first one came after the answer");
        let mut register = twice();
        register.read(0, of(3), 6, 7).expect("the first one never came");
    }

    #[test]
    fn overlapping_writes_get_one_order() {
        let mut register = Register::new(1);
        register.submit(0, WriteId(1), false, 1, 0);
        register.submit(0, WriteId(2), false, 2, 0);
        register.acknowledge(0, WriteId(1), 3).expect("fits");
        register.acknowledge(0, WriteId(2), 4).expect("fits");
        register.read(0, of(1), 5, 6).expect("either order");
        assert!(register.read(0, of(2), 7, 8).is_err(), "but only one");
    }

    #[test]
    fn zeroes_are_any_zeroing_that_fits() {
        let mut register = Register::new(1);
        written(&mut register, 1, 1, 2);
        register.submit(0, WriteId(2), true, 3, 0);
        register.read(0, Value::Zero, 4, 5).expect("the zeroing is under way");
        assert!(register.read(0, of(1), 6, 7).is_err());
    }

    #[test]
    fn settling_forgives_what_is_gone_but_not_its_return() {
        let mut register = Register::new(1);
        written(&mut register, 1, 1, 2);
        written(&mut register, 2, 3, 4);
        register.settle(0, of(1), 5);
        register.read(0, of(1), 6, 7).expect("this is the truth now");
        assert!(register.read(0, of(2), 8, 9).is_err());
    }

    #[test]
    fn pruning_keeps_a_value_that_was_read_late() {
        let mut register = Register::new(1);
        for write in 1..7 {
            written(&mut register, write, u64::from(write) * 10, u64::from(write) * 10 + 1);
        }
        register.read(0, of(6), 100, 101).expect("the last");
        register.submit(0, WriteId(7), false, 110, 110);
        assert!(register.lacks(0, of(6)).is_none());
    }

    #[test]
    fn pruning_hides_no_stale_read() {
        let mut register = Register::new(1);
        for write in 1..200 {
            let at = u64::from(write) * 10;
            register.submit(0, WriteId(write), false, at, at);
            register.acknowledge(0, WriteId(write), at + 1).expect("fits");
        }
        assert!(register.sectors[0].len() < 10);
        assert!(register.read(0, of(150), 5000, 5001).is_err());
        register.read(0, of(199), 5002, 5003).expect("the last");
    }
}
