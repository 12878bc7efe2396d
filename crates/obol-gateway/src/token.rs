//! The token that reading the state asks for.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq as _;

/// A secret text; never shown.
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("the gateway's token file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds too little to be a secret.
    #[error("the gateway's token file {path} holds fewer than 32 characters: delete it, and a new one is made")]
    Short {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes for the gateway's token")]
    NoRandomness,
}

impl Token {
    /// Reads the file at `path`, or makes it with a new token, readable by its owner only.
    pub fn load_or_make(path: &Path) -> Result<Token, TokenError> {
        let file = |source| TokenError::File {
            path: path.into(),
            source,
        };
        match fs::read_to_string(path) {
            Ok(text) if text.trim().len() >= 32 => Ok(Token(text.trim().to_owned())),
            Ok(_) => Err(TokenError::Short { path: path.into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
                let token = Token(hex::encode(bytes));
                let mut options = fs::OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let mut to = options.open(path).map_err(file)?;
                to.write_all(token.0.as_bytes())
                    .and_then(|()| to.write_all(b"\n"))
                    .map_err(file)?;
                Ok(token)
            }
            Err(e) => Err(file(e)),
        }
    }

    /// Whether `given` is this token, in time that does not depend on how much of it is right.
    pub fn is(&self, given: &str) -> bool {
        bool::from(self.0.as_bytes().ct_eq(given.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
