//! `evenkeel status --json`, read strictly: a field that is missing, or of another type than documented, is an error
//! (design section 8).

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A volume as its node sees it.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// Bytes of the volume.
    pub size: u64,
    /// `primary` or `secondary`.
    pub role: String,
    /// Disk state.
    pub disk: String,
    /// 32 hex digits.
    pub generation: Option<String>,
    /// Why it is suspended.
    pub suspended: Option<String>,
    /// The last resync that ended.
    pub last_resync: Option<LastResync>,
    /// All configured peers.
    pub peers: Vec<PeerStatus>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What the last resync did.
#[derive(Clone, Debug)]
pub struct LastResync {
    /// Why it was.
    pub reason: String,
    /// Bytes that were compared.
    pub compared_bytes: u64,
    /// Bytes that were copied.
    pub moved_bytes: u64,
}

/// A peer of a volume.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `connected`, `connecting`, `disconnected` or `refused`.
    pub connection: String,
    /// Its role, or `unknown`.
    pub role: String,
    /// Its disk, or `unknown`.
    pub disk: String,
    /// `established`, `sync-source`, `sync-target`, `verify`, `off` or `split-brain`.
    pub replication: String,
    /// What the last handshake came to.
    pub verdict: Option<String>,
    /// Bytes that it lacks, as far as known.
    pub dirty_bytes: Option<u64>,
    /// Acknowledged bytes that it has not yet.
    pub lag_bytes: Option<u64>,
}

/// Something that is wrong, and what mends it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// For programs.
    pub code: String,
    /// For people.
    pub text: String,
    /// The command that mends it.
    pub remedy: String,
}

impl VolumeStatus {
    /// Takes one volume out of the answer.
    pub(super) fn parse(json: &str, name: &str) -> Result<Self> {
        let status: Value = serde_json::from_str(json)?;
        ensure!(status["schema"] == 1, "schema {}", status["schema"]);
        let volumes = status["volumes"].as_array().context("no list of volumes")?;
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        Self::read(volume.with_context(|| format!("volume {name} is not listed in {json}"))?)
            .with_context(|| json.to_owned())
    }

    fn read(volume: &Value) -> Result<Self> {
        for field in ["size", "term", "protocol", "io"] {
            ensure!(volume.get(field).is_some(), "the field {field} is missing");
        }
        let generation = optional_text(volume, "generation")?;
        if let Some(digits) = &generation {
            ensure!(digits.len() == 32, "generation {digits} is not 32 digits long");
        }
        let last_resync = match field(volume, "last_resync")? {
            Value::Null => None,
            last => Some(LastResync {
                reason: text(last, "reason")?,
                compared_bytes: number(last, "compared_bytes")?,
                moved_bytes: number(last, "moved_bytes")?,
            }),
        };
        Ok(Self {
            size: number(volume, "size")?,
            role: text(volume, "role")?,
            disk: text(volume, "disk")?,
            generation,
            suspended: optional_text(volume, "suspended")?,
            last_resync,
            peers: list(volume, "peers", PeerStatus::read)?,
            problems: list(volume, "problems", Problem::read)?,
        })
    }

    /// A peer by name.
    ///
    /// # Panics
    /// If it is not configured.
    #[must_use]
    pub fn peer(&self, name: &str) -> &PeerStatus {
        self.peers.iter().find(|peer| peer.name == name).expect("a configured peer is listed")
    }

    /// Whether a problem with this code is listed.
    #[must_use]
    pub fn has_problem(&self, code: &str) -> bool {
        self.problems.iter().any(|problem| problem.code == code)
    }

    /// All texts of the problems, for a search.
    #[must_use]
    pub fn problem_texts(&self) -> String {
        self.problems.iter().map(|p| format!("{}: {} ({})\n", p.code, p.text, p.remedy)).collect()
    }
}

impl PeerStatus {
    fn read(peer: &Value) -> Result<Self> {
        ensure!(peer.get("resync").is_some(), "the field resync is missing");
        Ok(Self {
            name: text(peer, "name")?,
            connection: one_of(peer, "connection", &["connected", "connecting", "disconnected", "refused"])?,
            role: one_of(peer, "role", &["primary", "secondary", "unknown"])?,
            disk: text(peer, "disk")?,
            replication: one_of(
                peer,
                "replication",
                &["established", "sync-source", "sync-target", "verify", "off", "split-brain"],
            )?,
            verdict: optional_text(peer, "verdict")?,
            dirty_bytes: optional_number(peer, "dirty_bytes")?,
            lag_bytes: optional_number(peer, "lag_bytes")?,
        })
    }
}

impl Problem {
    fn read(problem: &Value) -> Result<Self> {
        Ok(Self {
            code: text(problem, "code")?,
            text: text(problem, "text")?,
            remedy: text(problem, "remedy")?,
        })
    }
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value.get(name).with_context(|| format!("the field {name} is missing"))
}

fn text(value: &Value, name: &str) -> Result<String> {
    let text = field(value, name)?.as_str().with_context(|| format!("{name} must be a text"))?;
    Ok(text.to_owned())
}

fn one_of(value: &Value, name: &str, allowed: &[&str]) -> Result<String> {
    let text = text(value, name)?;
    ensure!(allowed.contains(&text.as_str()), "{name} is {text:?}, which is none of {allowed:?}");
    Ok(text)
}

fn number(value: &Value, name: &str) -> Result<u64> {
    field(value, name)?.as_u64().with_context(|| format!("{name} must be an integer"))
}

fn optional_text(value: &Value, name: &str) -> Result<Option<String>> {
    if field(value, name)?.is_null() { Ok(None) } else { text(value, name).map(Some) }
}

fn optional_number(value: &Value, name: &str) -> Result<Option<u64>> {
    if field(value, name)?.is_null() { Ok(None) } else { number(value, name).map(Some) }
}

fn list<T>(value: &Value, name: &str, read: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    let list = field(value, name)?.as_array().with_context(|| format!("{name} must be a list"))?;
    list.iter().map(read).collect()
}
