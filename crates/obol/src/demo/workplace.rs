//! Where a network keeps its files: a directory of the user's, or a temporary one that goes with it.

use std::path::{Path, PathBuf};

use anyhow::Context;

#[derive(Debug)]
pub(crate) struct Workplace {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Workplace {
    pub(crate) fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(keep) = keep else {
            let temporary = tempfile::Builder::new()
                .prefix("obol-")
                .tempdir()
                .context("no temporary directory can be made: name one with --keep")?;
            return Ok(Workplace {
                path: temporary.path().to_owned(),
                _temporary: Some(temporary),
            });
        };
        std::fs::create_dir_all(keep)
            .with_context(|| format!("cannot make the directory {} (--keep)", keep.display()))?;
        let path = keep
            .canonicalize()
            .with_context(|| format!("cannot use {} (--keep)", keep.display()))?;
        let used = std::fs::read_dir(&path)
            .with_context(|| format!("cannot read {} (--keep)", path.display()))?
            .next()
            .is_some();
        // Old keys with a new ledger would be a network that owes money nobody can see.
        anyhow::ensure!(
            !used,
            "{} is not empty: name a new directory with --keep",
            path.display()
        );
        Ok(Workplace { path, _temporary: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
