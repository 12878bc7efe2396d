//! The documents on disk, so that a relay that was restarted serves and knows the network at once.
//!
//! Nothing is believed because it is there: what is read is checked as if an authority had just sent it. Our own
//! descriptor is not kept; a new start makes a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tracing::{debug, warn};

use super::documents::{Certificate, Documents};
use super::fetch::{self, Authority};
use super::view::Snapshot;

/// The files, in the order in which they are read.
const CERTIFICATES: &str = "certificates";
const MICRODESC: &str = "consensus-microdesc";
const PLAIN: &str = "consensus";
const MICRODESCRIPTORS: &str = "microdescriptors";
const SERVERS: &str = "descriptors";

/// Files longer than this are not read: nobody sends so much either.
const LONGEST: u64 = 256 << 20;

/// The directory with these files.
#[derive(Debug, Clone)]
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn new(directory: PathBuf) -> Disk {
        Disk(directory)
    }

    /// Writes the documents, each file whole; what cannot be written is said in the log. Blocks.
    pub(super) fn save(&self, documents: &Documents) {
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&self.0)?;
            let certificates = documents.certificates.iter().map(|c| &c.text);
            self.write(CERTIFICATES, certificates)?;
            // Before the consensuses that name them: what is there without being named is only dropped.
            self.write(MICRODESCRIPTORS, documents.microdescriptors.values())?;
            self.write(SERVERS, documents.servers.values().map(|s| &s.text))?;
            self.write(PLAIN, documents.plain.iter().map(|c| &c.text))?;
            self.write(MICRODESC, documents.microdesc.iter().map(|c| &c.text))
        };
        if let Err(error) = write() {
            warn!(%error, "the directory documents cannot be kept in {}", self.0.display());
        }
    }

    fn write<'a>(&self, name: &str, pieces: impl Iterator<Item = &'a Bytes>) -> io::Result<()> {
        let pieces: Vec<&[u8]> = pieces.map(|piece| &piece[..]).collect();
        let draft = self.0.join(format!("{name}.new"));
        std::fs::write(&draft, pieces.concat())?;
        std::fs::rename(draft, self.0.join(name))
    }

    /// What was kept, as far as it is valid now; `None` without a consensus that is. Blocks.
    pub(super) fn load(&self, authorities: &[Authority], now: SystemTime) -> Option<(Documents, Snapshot)> {
        let mut documents = Documents::default();
        for text in fetch::split_before(&self.read(CERTIFICATES), b"dir-key-certificate-version ") {
            if let Some(certificate) = Certificate::read(text, now) {
                documents.add_certificate(certificate);
            }
        }
        let consensuses = [self.read(MICRODESC), self.read(PLAIN)];
        let restored = fetch::restore(
            documents,
            consensuses,
            &self.read(MICRODESCRIPTORS),
            &self.read(SERVERS),
            authorities,
            now,
        );
        match restored {
            Ok(restored) => Some(restored),
            Err(error) => {
                debug!(%error, "no consensus of an earlier run");
                None
            }
        }
    }

    /// A file's bytes; none if it cannot be read.
    fn read(&self, name: &str) -> Bytes {
        let path = self.0.join(name);
        read_up_to(&path, LONGEST).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(%error, "{} cannot be read", path.display());
            }
            Bytes::new()
        })
    }
}

fn read_up_to(path: &Path, longest: u64) -> io::Result<Bytes> {
    if std::fs::metadata(path)?.len() > longest {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(path).map(Bytes::from)
}
