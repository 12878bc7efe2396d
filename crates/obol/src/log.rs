//! What goes to standard error, and how much of it.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// Warnings, but not those that any small Tor network gives every second: too few guards to choose from.
const QUIET: &str = "warn,tor_netdir=error,tor_guardmgr=error,tor_circmgr=error,tor_dirmgr=error,arti_client=error";

/// How to write a filter.
const ADVICE: &str = "Write a level, or module=level pairs with commas between them";

/// The log's filter, which may change while the program runs.
#[derive(Clone)]
pub(crate) struct Log {
    /// The command line has said what to write: nothing else counts.
    settled: bool,
    set: Arc<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>,
}

impl Log {
    /// Starts to write what `filter`, from the command line, lets through, or warnings.
    ///
    /// # Errors
    /// It is no filter.
    pub(crate) fn start(filter: Option<&str>) -> anyhow::Result<Log> {
        let first = match filter {
            None => EnvFilter::new(QUIET),
            Some(text) => EnvFilter::try_new(text).with_context(|| format!("--log: `{text}`. {ADVICE}"))?,
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(first)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Ok(Log {
            settled: filter.is_some(),
            set: Arc::new(move |filter| Ok(handle.reload(filter)?)),
        })
    }

    /// Whether [`follow`](Self::follow) could do this.
    pub(crate) fn check(&self, filter: Option<&str>) -> anyhow::Result<()> {
        parse(filter).map(drop)
    }

    /// Writes what a configuration's `log` lets through, or warnings; unless the command line has said otherwise.
    ///
    /// # Errors
    /// It is no filter.
    pub(crate) fn follow(&self, filter: Option<&str>) -> anyhow::Result<()> {
        let filter = parse(filter)?;
        match self.settled {
            true => Ok(()),
            false => (self.set)(filter),
        }
    }
}

fn parse(filter: Option<&str>) -> anyhow::Result<EnvFilter> {
    let text = filter.unwrap_or(QUIET);
    EnvFilter::try_new(text).with_context(|| format!("the configuration's log is `{text}`. {ADVICE}"))
}
