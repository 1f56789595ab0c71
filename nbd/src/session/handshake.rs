//! The handshake ("option haggling"): fixed newstyle, without TLS.
//!
//! The session answers everything by itself but three questions: when a client asks to see or to enter an export
//! (INFO, GO, EXPORT_NAME), [`Handshake::step`] returns [`Step::Ask`] and goes on only after
//! [`Handshake::answer`]. In between the server may wait for an export that is held, or find a place for the
//! connection, for as long as it likes.
//!
//! Invariants: whatever the client sends, the session stays in step with its options or closes; input and
//! output are bounded by [`Limits`]; data after the option that starts the transmission phase is kept as the
//! beginning of that phase.

use std::sync::Arc;

use super::{
    negotiated::{Negotiated, context_id, transmission_flags},
    option_data::{self, Malformed},
};
use crate::{
    device::{Features, MapContext},
    limits::Limits,
    wire::{
        client_flag,
        option::{self, HEADER_BYTES, OptionHeader, clip, info, put_export, put_reply, put_server, reply},
    },
};

/// The minimum block size that is advertised: any byte can be written, if need be by reading its block first.
const MIN_BLOCK_BYTES: u32 = 1;
/// The preferred block size that is advertised.
const PREFERRED_BLOCK_BYTES: u32 = 4096;

/// The exports as the handshake sees them.
pub trait Catalogue {
    /// The names of all exports.
    fn names(&self) -> Vec<String>;

    /// What the export of this name promises, if there is one.
    fn features(&self, name: &str) -> Option<Arc<Features>>;
}

/// What a client wants of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see it (INFO).
    Describe,
    /// To use it (GO, EXPORT_NAME).
    Enter,
}

/// A question to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The canonical name of an export that the catalogue has.
    pub export: String,
    /// What the client wants of it.
    pub purpose: Purpose,
}

/// The server's answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Welcome.
    Serve {
        /// Size in bytes.
        size: u64,
        /// What the export promises.
        features: Arc<Features>,
    },
    /// There is no such export any more.
    Unknown,
    /// Not now, for the reason in the text (NBD_REP_ERR_POLICY).
    Refuse(String),
    /// The server is stopping (NBD_REP_ERR_SHUTDOWN).
    Shutdown,
}

/// What the session needs next. Before acting on it, [`Handshake::take_output`] is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes from the client.
    Receive,
    /// An answer.
    Ask(Ask),
    /// The connection is to be closed; the text is for the log.
    Close(&'static str),
}

/// Where the handshake stands.
///
/// ```text
/// ClientFlags --> Options <--> Skipping
///                 |    ^
///                 v    |
///                 Asked --> (Negotiated)      any --> Closed
/// ```
#[derive(Debug)]
enum Phase {
    /// The client's four bytes of flags come first.
    ClientFlags,
    /// An option comes next.
    Options,
    /// The data of an option that is too large is dropped; then its reply is sent.
    Skipping { header: OptionHeader, left: u32 },
    /// The server has been asked.
    Asked(Asked),
    /// Nothing more is said. Also the phase after the handshake has succeeded.
    Closed(&'static str),
}

/// What to remember while the server has been asked.
#[derive(Debug)]
struct Asked {
    option: u32,
    /// The name that the client gave, which may be empty.
    given_name: String,
    ask: Ask,
    /// Requested types of information.
    wanted: Vec<u16>,
}

/// What SET_META_CONTEXT selected, valid for the export of this name as the client gave it.
#[derive(Debug)]
struct Selection {
    given_name: String,
    contexts: Vec<MapContext>,
}

/// The handshake of one connection.
#[derive(Debug)]
pub struct Handshake {
    phase: Phase,
    input: Vec<u8>,
    output: Vec<u8>,
    max_options: u32,
    max_option_bytes: u32,
    max_skip_bytes: u32,
    max_payload_bytes: u32,
    options: u32,
    no_zeroes: bool,
    structured: bool,
    selection: Option<Selection>,
    stopping: bool,
}

impl Handshake {
    /// A handshake that begins with the greeting in its output.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let mut output = Vec::new();
        option::put_greeting(&mut output);
        Self {
            phase: Phase::ClientFlags,
            input: Vec::new(),
            output,
            max_options: limits.options,
            max_option_bytes: limits.option_bytes,
            max_skip_bytes: limits.option_skip_bytes,
            max_payload_bytes: limits.payload_bytes,
            options: 0,
            no_zeroes: false,
            structured: false,
            selection: None,
            stopping: false,
        }
    }

    /// Takes bytes from the client. To be called only when [`Step::Receive`] asked for it, with a few KiB at a
    /// time, so that what is kept stays bounded.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether the client has sent anything acceptable yet: strangers that have not give way first.
    #[must_use]
    pub fn has_spoken(&self) -> bool {
        !matches!(self.phase, Phase::ClientFlags)
    }

    /// Takes what is to be sent to the client.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes what the client sent behind its last option: the beginning of the transmission phase.
    #[must_use]
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// From now on every option but ABORT is answered with ERR_SHUTDOWN (spec, "Termination of the session
    /// during option haggling").
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Works through what has been received.
    pub fn step(&mut self, catalogue: &dyn Catalogue) -> Step {
        loop {
            match &mut self.phase {
                Phase::ClientFlags => {
                    let Some((flags, rest)) = self.input.split_first_chunk::<4>() else {
                        return Step::Receive;
                    };
                    let flags = u32::from_be_bytes(*flags);
                    self.input = rest.to_vec();
                    if flags & !client_flag::KNOWN != 0 {
                        self.close("the client set an unknown handshake flag");
                        continue;
                    }
                    // A client without FIXED_NEWSTYLE is served all the same, as the spec allows.
                    self.no_zeroes = flags & client_flag::NO_ZEROES != 0;
                    self.phase = Phase::Options;
                }
                Phase::Options => {
                    let Some(header) = self.input.first_chunk::<HEADER_BYTES>() else { return Step::Receive };
                    match OptionHeader::parse(header) {
                        Some(header) => match self.option(header, catalogue) {
                            Some(step) => return step,
                            None => continue,
                        },
                        None => self.close("the client sent something that is not an option"),
                    }
                }
                Phase::Skipping { header, left } => {
                    let here = self.input.len().min(*left as usize);
                    self.input.drain(..here);
                    *left -= u32::try_from(here).expect("at most `left`");
                    if *left > 0 {
                        return Step::Receive;
                    }
                    let option = header.option;
                    self.phase = Phase::Options;
                    self.refuse_oversized(option);
                }
                Phase::Asked(asked) => return Step::Ask(asked.ask.clone()),
                Phase::Closed(reason) => return Step::Close(reason),
            }
        }
    }

    fn close(&mut self, reason: &'static str) {
        self.phase = Phase::Closed(reason);
    }

    /// Takes one option whose header is at the beginning of the input; returns a step if it cannot go on.
    fn option(&mut self, header: OptionHeader, catalogue: &dyn Catalogue) -> Option<Step> {
        if header.length > self.max_option_bytes {
            if header.length > self.max_skip_bytes || header.option == option::EXPORT_NAME {
                self.close("the client sent an option with too much data");
            } else if self.count_option(header.option) {
                self.input.drain(..HEADER_BYTES);
                self.phase = Phase::Skipping { header, left: header.length };
            }
            return None;
        }
        let end = HEADER_BYTES + header.length as usize;
        if self.input.len() < end {
            return Some(Step::Receive);
        }
        if self.count_option(header.option) {
            let rest = self.input.split_off(end);
            let taken = std::mem::replace(&mut self.input, rest);
            self.dispatch(header.option, &taken[HEADER_BYTES..], catalogue);
        }
        None
    }

    /// Counts an option; false if it is one too many and the connection closes.
    fn count_option(&mut self, option: u32) -> bool {
        self.options += 1;
        if self.options <= self.max_options {
            return true;
        }
        if option != option::EXPORT_NAME {
            self.error(option, reply::ERR_TOO_BIG, "too many options on one connection; connect again");
        }
        self.close("the client sent too many options");
        false
    }

    fn refuse_oversized(&mut self, option: u32) {
        match option {
            option::ABORT => self.abort(),
            option::LIST
            | option::INFO
            | option::GO
            | option::STRUCTURED_REPLY
            | option::LIST_META_CONTEXT
            | option::SET_META_CONTEXT => {
                if option == option::SET_META_CONTEXT {
                    self.selection = None;
                }
                let text = format!("this option has more than {} bytes of data", self.max_option_bytes);
                self.error(option, reply::ERR_TOO_BIG, &text);
            }
            unknown => self.unsupported(unknown),
        }
    }

    fn dispatch(&mut self, option: u32, data: &[u8], catalogue: &dyn Catalogue) {
        if self.stopping && option != option::ABORT {
            match option {
                option::EXPORT_NAME => self.close("the server is stopping"),
                other => self.error(other, reply::ERR_SHUTDOWN, "the server is stopping"),
            }
            return;
        }
        match option {
            option::EXPORT_NAME => self.export_name(data, catalogue),
            option::ABORT => self.abort(),
            option::LIST => self.list(data, catalogue),
            option::INFO => self.info(option, Purpose::Describe, data, catalogue),
            option::GO => self.info(option, Purpose::Enter, data, catalogue),
            option::STRUCTURED_REPLY => self.structured_reply(data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.meta_context(option, data, catalogue)
            }
            unknown => self.unsupported(unknown),
        }
    }

    fn ack(&mut self, option: u32) {
        put_reply(&mut self.output, option, reply::ACK, &[]);
    }

    fn error(&mut self, option: u32, error: u32, text: &str) {
        put_reply(&mut self.output, option, error, &[clip(text).as_bytes()]);
    }

    fn unsupported(&mut self, option: u32) {
        let text = match option {
            option::STARTTLS => "this server has no TLS; use its unix socket".to_owned(),
            option::EXTENDED_HEADERS => "this server has no extended headers".to_owned(),
            unknown => format!("option {unknown} is unknown here"),
        };
        self.error(option, reply::ERR_UNSUP, &text);
    }

    fn abort(&mut self) {
        self.ack(option::ABORT);
        self.close("the client ended the handshake");
    }

    fn list(&mut self, data: &[u8], catalogue: &dyn Catalogue) {
        if !data.is_empty() {
            self.error(option::LIST, reply::ERR_INVALID, "LIST carries no data");
            return;
        }
        for name in catalogue.names() {
            if let Some(features) = catalogue.features(&name) {
                put_server(&mut self.output, &name, &features.description);
            }
        }
        self.ack(option::LIST);
    }

    fn structured_reply(&mut self, data: &[u8]) {
        if data.is_empty() {
            self.structured = true;
            self.ack(option::STRUCTURED_REPLY);
        } else {
            self.error(option::STRUCTURED_REPLY, reply::ERR_INVALID, "STRUCTURED_REPLY carries no data");
        }
    }

    fn export_name(&mut self, data: &[u8], catalogue: &dyn Catalogue) {
        let found = option_data::text(data).ok().and_then(|given| Some((given, resolve(given, catalogue)?)));
        match found {
            Some((given, export)) => {
                self.phase = Phase::Asked(Asked {
                    option: option::EXPORT_NAME,
                    given_name: given.to_owned(),
                    ask: Ask { export, purpose: Purpose::Enter },
                    wanted: Vec::new(),
                });
            }
            None => self.close("the client asked for an unknown export with EXPORT_NAME"),
        }
    }

    fn info(&mut self, option: u32, purpose: Purpose, data: &[u8], catalogue: &dyn Catalogue) {
        match option_data::info(data) {
            Err(Malformed(text)) => self.error(option, reply::ERR_INVALID, text),
            Ok(data) => match resolve(data.name, catalogue) {
                None => self.unknown(option, data.name, catalogue),
                Some(export) => {
                    self.phase = Phase::Asked(Asked {
                        option,
                        given_name: data.name.to_owned(),
                        ask: Ask { export, purpose },
                        wanted: data.wanted,
                    });
                }
            },
        }
    }

    fn unknown(&mut self, option: u32, name: &str, catalogue: &dyn Catalogue) {
        let count = catalogue.names().len();
        let text = if name.is_empty() {
            format!("there is no default export among {count} exports; name one")
        } else {
            format!("there is no export \"{}\" here; LIST names the {count} that exist", shown(name))
        };
        self.error(option, reply::ERR_UNKNOWN, &text);
    }

    fn meta_context(&mut self, option: u32, data: &[u8], catalogue: &dyn Catalogue) {
        let set = option == option::SET_META_CONTEXT;
        if set {
            // A SET replaces the whole selection, also when it fails.
            self.selection = None;
        }
        if !self.structured {
            self.error(option, reply::ERR_INVALID, "metadata contexts need STRUCTURED_REPLY first");
            return;
        }
        let data = match option_data::contexts(data) {
            Ok(data) => data,
            Err(Malformed(text)) => {
                self.error(option, reply::ERR_INVALID, text);
                return;
            }
        };
        let Some(features) = resolve(data.name, catalogue).and_then(|export| catalogue.features(&export))
        else {
            self.unknown(option, data.name, catalogue);
            return;
        };
        let offered = MapContext::ALL.into_iter().filter(|context| features.contexts.contains(context));
        let matches = |context: &MapContext| {
            let named = data.queries.iter().any(|query| *query == context.name());
            let listed =
                !set && (data.queries.is_empty() || data.queries.iter().any(|q| is_wildcard(q, *context)));
            named || listed
        };
        let contexts: Vec<_> = offered.filter(matches).collect();
        for &context in &contexts {
            let id = if set { context_id(context) } else { 0 };
            let parts = [&id.to_be_bytes()[..], context.name().as_bytes()];
            put_reply(&mut self.output, option, reply::META_CONTEXT, &parts);
        }
        self.ack(option);
        if set {
            self.selection = Some(Selection { given_name: data.name.to_owned(), contexts });
        }
    }

    /// Answers [`Step::Ask`]; the next [`Handshake::step`] follows from it, except after a success of
    /// [`Purpose::Enter`]: then the parameters are returned, the handshake is over, and
    /// [`Handshake::take_input`] is the beginning of the transmission phase.
    ///
    /// # Panics
    /// If nothing was asked.
    pub fn answer(&mut self, answer: Answer) -> Option<Negotiated> {
        let phase = std::mem::replace(&mut self.phase, Phase::Options);
        let Phase::Asked(asked) = phase else { panic!("an answer without a question") };
        let option = asked.option;
        let (size, features) = match answer {
            Answer::Serve { size, features } => (size, features),
            Answer::Unknown | Answer::Refuse(_) | Answer::Shutdown if option == option::EXPORT_NAME => {
                self.close("the export that the client asked for with EXPORT_NAME is refused");
                return None;
            }
            Answer::Unknown => {
                let text = format!("there is no export \"{}\" here any more", shown(&asked.ask.export));
                self.error(option, reply::ERR_UNKNOWN, &text);
                return None;
            }
            Answer::Refuse(text) => {
                self.error(option, reply::ERR_POLICY, &text);
                return None;
            }
            Answer::Shutdown => {
                self.error(option, reply::ERR_SHUTDOWN, "the server is stopping");
                return None;
            }
        };
        let flags = transmission_flags(&features, self.structured);
        if option == option::EXPORT_NAME {
            put_export(&mut self.output, size, flags, !self.no_zeroes);
        } else {
            self.describe(&asked, size, flags, &features);
            self.ack(option);
        }
        match asked.ask.purpose {
            Purpose::Describe => None,
            Purpose::Enter => Some(self.enter(asked, size, features)),
        }
    }

    fn enter(&mut self, asked: Asked, size: u64, features: Arc<Features>) -> Negotiated {
        self.close("the handshake is over");
        let contexts = match self.selection.take() {
            Some(selection) if self.structured && selection.given_name == asked.given_name => {
                selection.contexts
            }
            _ => Vec::new(),
        };
        Negotiated { export: asked.ask.export, size, features, structured: self.structured, contexts }
    }

    fn describe(&mut self, asked: &Asked, size: u64, flags: u16, features: &Features) {
        let mut put = |kind: u16, parts: [&[u8]; 3]| {
            let [first, second, third] = parts;
            let parts = [&kind.to_be_bytes()[..], first, second, third];
            put_reply(&mut self.output, asked.option, reply::INFO, &parts);
        };
        put(info::EXPORT, [&size.to_be_bytes(), &flags.to_be_bytes(), &[]]);
        if asked.wanted.contains(&info::NAME) {
            put(info::NAME, [asked.ask.export.as_bytes(), &[], &[]]);
        }
        if asked.wanted.contains(&info::DESCRIPTION) && !features.description.is_empty() {
            put(info::DESCRIPTION, [clip(&features.description).as_bytes(), &[], &[]]);
        }
        if asked.wanted.contains(&info::BLOCK_SIZE) {
            let preferred = PREFERRED_BLOCK_BYTES.to_be_bytes();
            put(
                info::BLOCK_SIZE,
                [&MIN_BLOCK_BYTES.to_be_bytes(), &preferred, &self.max_payload_bytes.to_be_bytes()],
            );
        }
    }
}

/// The export that a client means: the one of this name, or for the empty name the only one.
fn resolve(name: &str, catalogue: &dyn Catalogue) -> Option<String> {
    if name.is_empty() {
        let mut names = catalogue.names();
        let only = names.pop()?;
        return names.is_empty().then_some(only);
    }
    catalogue.features(name).map(|_| name.to_owned())
}

/// Whether a query of LIST_META_CONTEXT asks for the whole namespace of `context`.
fn is_wildcard(query: &str, context: MapContext) -> bool {
    let namespace = context.name().split_once(':').map(|(namespace, _)| namespace);
    query.strip_suffix(':').is_some_and(|query| namespace == Some(query))
}

/// A client's string as it may appear in a message: short, and without control characters.
fn shown(name: &str) -> String {
    const MAX_CHARS: usize = 64;
    let mut text: String = name.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(MAX_CHARS).is_some() {
        text.push('…');
    }
    text
}
