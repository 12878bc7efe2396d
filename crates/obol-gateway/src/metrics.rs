//! A program's metrics from one table ([`metrics_table!`](crate::metrics_table)), in Prometheus' text format, with those of its process.
//!
//! No label names a session, a circuit or a peer: such labels would grow without bound, and tell who was where. Every series is there from the
//! start: one that appears with its first event hides that event from `rate()`.

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use prometheus::{Encoder as _, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; from 0 at the process's start.
    Counter,
    /// What is now.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its whole name.
    pub name: &'static str,
    /// What it counts, in which unit: a sentence.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels and the values that each can have.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

/// Declares an enum `Metric`, a variant for each metric, and their `TABLE`. A line: `Variant "name" Kind [labels] "Help.";`, a label being a name and its
/// values.
#[macro_export]
macro_rules! metrics_table {
    ($($metric:ident $name:literal $kind:ident [$($label:expr),*] $help:literal;)*) => {
        /// Names a metric of the [`TABLE`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $help] $metric,)*
        }

        impl From<Metric> for usize {
            fn from(metric: Metric) -> usize {
                metric as usize
            }
        }

        /// All metrics, in the order of [`Metric`].
        pub const TABLE: &[$crate::metrics::Row] = &[
            $($crate::metrics::Row {
                name: $name,
                help: $help,
                kind: $crate::metrics::Kind::$kind,
                labels: &[$($label),*],
            },)*
        ];
    };
}

/// One registered metric.
enum Family {
    Counter(IntCounterVec),
    Gauge(IntGaugeVec),
}

/// The metrics of a table; `M` names them, and turns into their places there.
pub struct Metrics<M> {
    registry: Registry,
    families: Vec<Family>,
    /// Held while somebody else's counters are copied and written out: two readers at once would mix theirs.
    reading: Mutex<()>,
    names: PhantomData<fn(M)>,
}

impl<M> std::fmt::Debug for Metrics<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl<M: Into<usize>> Metrics<M> {
    /// All metrics of the table, each label value at zero; and on Linux the process's own (CPU time, memory, files, start).
    ///
    /// # Panics
    /// If the table has a name twice, or one that Prometheus does not allow. [`check`] finds that in a test.
    pub fn new(table: &[Row]) -> Metrics<M> {
        let registry = Registry::new();
        let mut families = Vec::with_capacity(table.len());
        for row in table {
            let options = Opts::new(row.name, row.help);
            let names: Vec<&str> = row.labels.iter().map(|(name, _)| *name).collect();
            let valid = "the table's names are valid and different";
            let family = match row.kind {
                Kind::Counter => {
                    let family = IntCounterVec::new(options, &names).expect(valid);
                    registry.register(Box::new(family.clone())).expect(valid);
                    Family::Counter(family)
                }
                Kind::Gauge => {
                    let family = IntGaugeVec::new(options, &names).expect(valid);
                    registry.register(Box::new(family.clone())).expect(valid);
                    Family::Gauge(family)
                }
            };
            for values in combinations(row.labels) {
                match &family {
                    Family::Counter(family) => drop(family.with_label_values(&values)),
                    Family::Gauge(family) => drop(family.with_label_values(&values)),
                }
            }
            families.push(family);
        }
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            // Its names are its own: nothing here begins with `process_`.
            let _ = registry.register(Box::new(process));
        }
        Metrics {
            registry,
            families,
            reading: Mutex::new(()),
            names: PhantomData,
        }
    }

    /// Adds to a counter. `values`: of its labels, in the table's order.
    pub fn add(&self, metric: M, values: &[&str], by: u64) {
        if let Some(Family::Counter(family)) = self.families.get(metric.into())
            && let Ok(counter) = family.get_metric_with_label_values(values)
        {
            counter.inc_by(by);
        }
    }

    /// Sets a gauge; or a counter that somebody else keeps, to its total.
    pub fn set(&self, metric: M, values: &[&str], to: u64) {
        match self.families.get(metric.into()) {
            Some(Family::Counter(family)) => {
                if let Ok(counter) = family.get_metric_with_label_values(values) {
                    counter.reset();
                    counter.inc_by(to);
                }
            }
            Some(Family::Gauge(family)) => {
                if let Ok(gauge) = family.get_metric_with_label_values(values) {
                    gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
                }
            }
            None => {}
        }
    }

    /// What a counter or gauge is at; 0 if there is none with these labels.
    pub fn get(&self, metric: M, values: &[&str]) -> u64 {
        match self.families.get(metric.into()) {
            Some(Family::Counter(family)) => family.get_metric_with_label_values(values).map_or(0, |c| c.get()),
            Some(Family::Gauge(family)) => family
                .get_metric_with_label_values(values)
                .map_or(0, |g| u64::try_from(g.get()).unwrap_or(0)),
            None => 0,
        }
    }

    /// Everything as text, once `copy` has brought what others count up to date.
    pub fn render(&self, copy: impl FnOnce(&Self)) -> String {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        copy(self);
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("the metrics cannot be written: {e}");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What a table must be beside valid names: prefixed, explained, counters named as such, labels bounded. For tests.
///
/// # Errors
/// What is wrong, and where.
pub fn check(table: &[Row], prefix: &str) -> Result<(), String> {
    let mut names = std::collections::BTreeSet::new();
    for row in table {
        let name = row.name;
        if !names.insert(name) {
            return Err(format!("{name} is there twice"));
        }
        if !name.starts_with(prefix) || !row.help.ends_with('.') {
            return Err(format!("{name} is not called {prefix}..., or has no sentence"));
        }
        if name.ends_with("_total") != (row.kind == Kind::Counter) {
            return Err(format!("{name}: counters end in _total, and nothing else does"));
        }
        if let Some((label, _)) = row.labels.iter().find(|(_, values)| values.len() > 10) {
            return Err(format!("{name}: {label} is not bounded"));
        }
    }
    Ok(())
}

/// The table as documents have it, in Markdown.
pub fn as_markdown(table: &[Row]) -> String {
    let mut text = String::from("| metric | kind | labels | what |\n|---|---|---|---|\n");
    for row in table {
        let labels: Vec<String> = row
            .labels
            .iter()
            .map(|(name, values)| format!("`{name}`: {}", values.join(", ")))
            .collect();
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let (name, labels, help) = (row.name, labels.join("; "), row.help);
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

/// Every combination of the labels' values.
fn combinations(labels: &[(&'static str, &'static [&'static str])]) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for (_, values) in labels {
        all = all
            .into_iter()
            .flat_map(|chosen| {
                values
                    .iter()
                    .map(move |value| chosen.iter().copied().chain([*value]).collect())
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    const FROM: (&str, &[&str]) = ("from", &["client", "relay"]);

    metrics_table! {
        Payments "test_payments_total" Counter [FROM] "Payments.";
        Escrows "test_escrows" Gauge [FROM, ("state", &["open", "closing"])] "Escrows now.";
        Nothing "test_nothing" Gauge [] "Nothing.";
    }

    type Metrics = super::Metrics<Metric>;

    #[test]
    fn every_series_is_there_from_the_start_with_those_of_the_process() {
        let text = Metrics::new(TABLE).render(|_| {});
        for series in [
            "test_payments_total{from=\"client\"} 0",
            "test_payments_total{from=\"relay\"} 0",
            "test_escrows{from=\"relay\",state=\"closing\"} 0",
            "test_nothing 0",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is not in {text}");
        }
        if cfg!(target_os = "linux") {
            assert!(text.contains("process_resident_memory_bytes "), "{text}");
        }
        super::check(TABLE, "test_").expect("a good table");
    }

    #[test]
    fn counting_with_a_wrong_label_counts_nothing_and_breaks_nothing() {
        let metrics = Metrics::new(TABLE);
        metrics.add(Metric::Payments, &[], 1);
        metrics.add(Metric::Payments, &["client"], 2);
        assert_eq!(metrics.get(Metric::Payments, &["client"]), 2);
        metrics.set(Metric::Escrows, &["relay", "open"], 3);
        assert_eq!(metrics.get(Metric::Escrows, &["relay", "open"]), 3);
        assert_eq!(metrics.get(Metric::Escrows, &["nobody", "open"]), 0);
        // What others count is set to what it is, as often as somebody reads.
        for _ in 0..2 {
            let text = metrics.render(|metrics| metrics.set(Metric::Payments, &["relay"], 7));
            assert!(text.contains("test_payments_total{from=\"relay\"} 7"), "{text}");
        }
    }

    #[test]
    fn a_table_that_breaks_its_rules_is_found() {
        let row = TABLE[0];
        assert!(super::check(&[row, row], "test_").is_err());
        assert!(super::check(&[row], "other_").is_err());
        let gauge = super::Row {
            kind: super::Kind::Gauge,
            ..row
        };
        assert!(super::check(&[gauge], "test_").is_err());
    }
}
