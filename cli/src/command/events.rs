//! `evenkeel events`: what happened on this node, numbered, so that a reader can go on where it stopped.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use crate::{
    admin::{
        client::Client,
        document::{EventDocument, EventsDocument},
    },
    options::Options,
    output,
};

/// A request waits so many seconds for a new event; the daemon shows signs of life meanwhile.
const WAIT_SECONDS: u64 = 30;

/// Print what happened on this node.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Only events with a number above this one.
    #[arg(long, value_name = "N", default_value_t = 0)]
    since: u64,
    /// Go on printing events as they happen.
    #[arg(long)]
    follow: bool,
}

pub(crate) async fn run(options: &Options, arguments: &Arguments) -> Result<()> {
    let client = Client::new(options);
    let mut since = arguments.since;
    let mut wait = 0;
    loop {
        let value = client.get(&format!("/v1/events?since={since}&wait={wait}")).await?;
        let batch: EventsDocument = serde_json::from_value(value)?;
        if batch.lost > 0 {
            // Nothing is left to do if stderr is gone too.
            let _ = writeln!(std::io::stderr(), "{} earlier events are no longer kept", batch.lost);
        }
        let mut text = String::new();
        for event in &batch.events {
            text += &if arguments.json { serde_json::to_string(event)? } else { line(event) };
            text.push('\n');
            since = event.number;
        }
        output::print(&text)?;
        if !arguments.follow {
            return Ok(());
        }
        wait = WAIT_SECONDS;
    }
}

fn line(event: &EventDocument) -> String {
    let EventDocument { number, time, volume, peer, kind, text } = event;
    let about: Vec<&str> = [volume, peer].into_iter().flatten().map(String::as_str).collect();
    let about = if about.is_empty() { String::new() } else { format!("{} ", about.join("/")) };
    format!("{number} {time} {about}{kind}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = EventDocument {
            number: 7,
            time: "2026-11-24T04:30:00Z".into(),
            volume: Some("r0".into()),
            peer: Some("beta".into()),
            kind: "verdict".into(),
            text: "nothing to copy".into(),
        };
        assert_eq!(line(&event), "7 2026-11-24T04:30:00Z r0/beta verdict: nothing to copy");
        let event = EventDocument { volume: None, peer: None, ..event };
        assert_eq!(line(&event), "7 2026-11-24T04:30:00Z verdict: nothing to copy");
    }
}
