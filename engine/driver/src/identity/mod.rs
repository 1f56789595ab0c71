//! A node's identity: one private key, kept in the state directory, and a self-signed certificate for it.
//!
//! The key is the identity: peers pin its [`Fingerprint`]. The certificate only carries it through TLS; it says
//! nothing else that anybody believes (no name, no dates), and is made anew from the key when it is missing.
//!
//! Invariants:
//! - an existing key is never replaced; what is damaged is refused with the file's name and the remedy;
//! - the key file is readable by its owner only, from its first byte on, or it is not used.

mod files;
mod fingerprint;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use thiserror::Error;

pub use fingerprint::{Fingerprint, NoFingerprint};

/// The private key's file in the state directory.
pub const KEY_FILE: &str = "node.key";

/// The certificate's file in the state directory.
pub const CERTIFICATE_FILE: &str = "node.crt";

/// What a node proves itself with.
pub struct Identity {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The system says so.
    #[error("{action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// None was made yet.
    #[error("there is no key at {0}: `evenkeel init` with the same --state-dir makes one")]
    Missing(PathBuf),
    /// Others can read or write the key.
    #[error(
        "{path} has mode {mode:03o}, so others can read or change this node's key: `chmod 600 {path}`, and if somebody may have read it, make a new one"
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key belongs to another user.
    #[error(
        "{path} belongs to user {owner}, this program runs as user {user}: start it as the user that owns its state directory"
    )]
    Foreign {
        /// The key's file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// The file is there but is not what it should be.
    #[error(
        "{path} is damaged ({what}): put it back from a backup, or move it and {other} away and run `evenkeel init`, which makes a new identity that every peer's configuration must then name"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// The other file of the pair.
        other: &'static str,
    },
    /// The certificate is there but its key is not.
    #[error(
        "{certificate} is there but its key {key} is not: put the key back, or move the certificate away to make a new identity"
    )]
    KeyLost {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate is for another key.
    #[error(
        "{certificate} is for key {found}, but {key} is {expected}: move the certificate away, it is made anew"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Key in the certificate.
        found: Fingerprint,
        /// The key.
        expected: Fingerprint,
    },
    /// Keys cannot be made.
    #[error("a key cannot be made: {0}")]
    Generate(rcgen::Error),
}

impl Identity {
    /// The identity in this directory; made if there is none, with the directory. To be called again at will:
    /// nothing that exists is changed.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        files::create_directory(state_dir)?;
        match Self::load(state_dir) {
            Err(IdentityError::Missing(path)) => {
                // Whoever is first wins; both then load what is there.
                files::create(&path, new_key()?.serialize_pem().as_bytes(), 0o600)?;
                Self::load(state_dir)
            }
            other => other,
        }
    }

    /// The identity in this directory. A missing certificate is made from the key.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        let key_path = state_dir.join(KEY_FILE);
        let certificate_path = state_dir.join(CERTIFICATE_FILE);
        let stored = files::read(&certificate_path)?;
        let Some(pem) = files::read_secret(&key_path)? else {
            return Err(match stored {
                Some(_) => IdentityError::KeyLost { certificate: certificate_path, key: key_path },
                None => IdentityError::Missing(key_path),
            });
        };
        let damaged =
            |path: &Path, other, what: String| IdentityError::Damaged { path: path.into(), what, other };
        let key = String::from_utf8(pem)
            .map_err(|error| error.to_string())
            .and_then(|pem| KeyPair::from_pem(&pem).map_err(|error| error.to_string()))
            .map_err(|what| damaged(&key_path, CERTIFICATE_FILE, what))?;
        let (made, made_pem) = Self::from_key(&key)?;
        let Some(stored) = stored else {
            files::create(&certificate_path, made_pem.as_bytes(), 0o644)?;
            return Ok(made);
        };
        let certificate = CertificateDer::from_pem_slice(&stored)
            .map_err(|error| damaged(&certificate_path, KEY_FILE, error.to_string()))?;
        let found = Fingerprint::of_certificate(&certificate)
            .map_err(|error| damaged(&certificate_path, KEY_FILE, error.to_string()))?;
        if found != made.fingerprint {
            return Err(IdentityError::Mismatch {
                certificate: certificate_path,
                key: key_path,
                found,
                expected: made.fingerprint,
            });
        }
        Ok(Self { certificate, ..made })
    }

    /// A new identity that is kept nowhere.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Ok(Self::from_key(&new_key()?)?.0)
    }

    /// The identity of a key, and its certificate as text.
    fn from_key(key: &KeyPair) -> Result<(Self, String), IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "evenkeel node");
        let certificate = params.self_signed(key).map_err(IdentityError::Generate)?;
        let identity = Self {
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            certificate: certificate.der().clone(),
            fingerprint: Fingerprint::of_public_key(&key.subject_public_key_info()),
        };
        Ok((identity, certificate.pem()))
    }

    /// What peers pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The self-signed certificate.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The private key, for TLS.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// Shows which key it is, never the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Generate)
}
