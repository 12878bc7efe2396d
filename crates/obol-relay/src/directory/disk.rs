//! The documents on disk, so that a relay that was restarted serves and knows the network at once.
//!
//! Nothing is believed because it is there: what is read is checked as if an authority had just sent it. Our own
//! descriptor is not kept; a new start makes a new one. Earlier consensuses are kept as well, each in a file of its own, packed:
//! whoever has one of them gets the difference to the newest from a relay that was restarted, too.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tor_netdoc::doc::netstatus::ConsensusFlavor;
use tracing::{debug, warn};

use super::diffs::{Diffs, Earlier};
use super::documents::{Certificate, Documents};
use super::fetch::{self, Authority};
use super::view::Snapshot;

/// The files, in the order in which they are read.
const CERTIFICATES: &str = "certificates";
const MICRODESC: &str = "consensus-microdesc";
const PLAIN: &str = "consensus";
const MICRODESCRIPTORS: &str = "microdescriptors";
const SERVERS: &str = "descriptors";
/// The directory with earlier consensuses, and how the names of those begin.
const EARLIER: &str = "earlier";
const FLAVORS: [(ConsensusFlavor, &str); 2] = [
    (ConsensusFlavor::Microdesc, "microdesc-"),
    (ConsensusFlavor::Plain, "ns-"),
];

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
            self.write(MICRODESC, documents.microdesc.iter().map(|c| &c.text))?;
            self.save_earlier(documents)
        };
        if let Err(error) = write() {
            warn!(%error, "the directory documents cannot be kept in {}", self.0.display());
        }
    }

    /// Writes the earlier consensuses that are not there, and removes those that are no longer remembered.
    fn save_earlier(&self, documents: &Documents) -> io::Result<()> {
        let place = self.0.join(EARLIER);
        std::fs::create_dir_all(&place)?;
        let mut names = HashSet::new();
        for (flavor, prefix) in FLAVORS {
            for one in documents.diffs(flavor).earlier() {
                let name = format!("{prefix}{}", hex::encode(one.digest));
                let path = place.join(&name);
                if !path.exists() {
                    let draft = place.join("new");
                    std::fs::write(&draft, &one.packed)?;
                    std::fs::rename(draft, path)?;
                }
                names.insert(name);
            }
        }
        for entry in std::fs::read_dir(&place)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// These documents with the earlier consensuses that were kept, and the differences from those. Blocks.
    pub(super) fn with_earlier(&self, mut documents: Documents) -> Documents {
        let place = self.0.join(EARLIER);
        let newest = FLAVORS.map(|(flavor, _)| documents.consensus(flavor).map(|c| c.digest));
        let mut found: [Vec<Earlier>; 2] = Default::default();
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(which) = name
                .to_str()
                .and_then(|name| FLAVORS.iter().position(|(_, prefix)| name.starts_with(prefix)))
            else {
                continue;
            };
            let packed = read_up_to(&entry.path(), LONGEST).ok();
            let one = packed.and_then(|packed| Earlier::read(FLAVORS[which].0, packed));
            // The newest one is there, too: it is nothing to make a difference from.
            found[which].extend(one.filter(|one| Some(one.digest) != newest[which]));
        }
        [documents.microdesc_diffs, documents.plain_diffs] = found.map(Diffs::restored);
        documents.with_diffs()
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
