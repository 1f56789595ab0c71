//! Everything that the clients ever wrote: what, where, when, and when it was answered.

use crate::payload::{Value, WriteId};

use super::register::NEVER;

/// One write or zeroing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// First sector.
    pub(crate) first: u64,
    /// Number of sectors.
    pub(crate) sectors: u64,
    /// Zeroes rather than data.
    pub(crate) zero: bool,
    /// Stable before its answer.
    pub(crate) fua: bool,
    /// When it was first sent to a node.
    pub(crate) submitted: u64,
    /// When it was answered well; [`NEVER`] before.
    pub(crate) acknowledged: u64,
    /// The write that this one repeats, because it was not answered.
    pub(crate) repeats: Option<WriteId>,
}

/// All writes, by their ids.
#[derive(Debug)]
pub(crate) struct Journal {
    writes: Vec<Written>,
    zeroings: Vec<Zeroings>,
}

/// What is known of the zeroings of one sector.
#[derive(Clone, Copy, Debug, Default)]
struct Zeroings {
    /// Not yet answered.
    open: u32,
    /// When the last one was answered.
    acknowledged: u64,
}

impl Journal {
    pub(crate) fn new(sectors: usize) -> Self {
        Self { writes: Vec::new(), zeroings: vec![Zeroings::default(); sectors] }
    }

    fn zeroings_of(&mut self, first: u64, sectors: u64) -> &mut [Zeroings] {
        let first = usize::try_from(first).expect("a small device");
        &mut self.zeroings[first..first + usize::try_from(sectors).expect("a small device")]
    }

    /// A new write.
    pub(crate) fn submit(
        &mut self,
        first: u64,
        sectors: u64,
        zero: bool,
        fua: bool,
        repeats: Option<WriteId>,
        now: u64,
    ) -> WriteId {
        self.writes.push(Written { first, sectors, zero, fua, submitted: now, acknowledged: NEVER, repeats });
        if zero {
            self.zeroings_of(first, sectors).iter_mut().for_each(|zeroings| zeroings.open += 1);
        }
        WriteId(u32::try_from(self.writes.len()).expect("a run has few writes"))
    }

    /// A write that was sent again has been answered as another one: it will not come any more.
    pub(crate) fn lapse(&mut self, write: WriteId) {
        let Written { first, sectors, zero, .. } = self.writes[write.0 as usize - 1];
        if zero {
            self.zeroings_of(first, sectors).iter_mut().for_each(|zeroings| zeroings.open -= 1);
        }
    }

    /// It is answered well.
    pub(crate) fn acknowledge(&mut self, write: WriteId, now: u64) {
        let written = &mut self.writes[write.0 as usize - 1];
        written.acknowledged = now;
        let Written { first, sectors, zero, .. } = *written;
        if zero {
            for zeroings in self.zeroings_of(first, sectors) {
                zeroings.open -= 1;
                zeroings.acknowledged = now;
            }
        }
    }

    /// A write by its id.
    pub(crate) fn get(&self, write: WriteId) -> Option<&Written> {
        self.writes.get((write.0 as usize).checked_sub(1)?)
    }

    /// When the write behind a value was submitted; zero for zeroes (whose write is unknown).
    pub(crate) fn submitted(&self, value: Value) -> u64 {
        match value {
            Value::Of(write) => self.get(write).map_or(0, |write| write.submitted),
            Value::Zero | Value::Foreign => 0,
        }
    }

    /// When the write behind the value of a sector was acknowledged: the latest that it can have been. Zeroes
    /// are taken for the last zeroing of the sector.
    pub(crate) fn acknowledged(&self, value: Value, sector: usize) -> u64 {
        match value {
            Value::Of(write) => self.get(write).map_or(0, |write| write.acknowledged),
            Value::Foreign => 0,
            Value::Zero => {
                let zeroings = self.zeroings[sector];
                if zeroings.open > 0 { NEVER } else { zeroings.acknowledged }
            }
        }
    }

    /// The writes that touched a sector, for a failure's message.
    pub(crate) fn history(&self, sector: usize, last: usize) -> String {
        let sector = sector as u64;
        let mut lines: Vec<String> = self
            .writes
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, write)| (write.first..write.first + write.sectors).contains(&sector))
            .take(last)
            .map(|(place, write)| {
                let answered = if write.acknowledged == NEVER {
                    "never answered".to_owned()
                } else {
                    format!("answered at {}", write.acknowledged)
                };
                let what = if write.zero { "zeroing" } else { "write" };
                let fua = if write.fua { ", FUA" } else { "" };
                format!(
                    "  {what} {} (sectors {}+{}{fua}) submitted at {}, {answered}",
                    place + 1,
                    write.first,
                    write.sectors,
                    write.submitted
                )
            })
            .collect();
        lines.reverse();
        format!("history of sector {sector} (stamps, last {last}):\n{}", lines.join("\n"))
    }
}
