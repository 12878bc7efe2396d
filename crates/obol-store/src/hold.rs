//! Where a debug build can be made to stop, so that tests can end a real process there with SIGKILL.
//!
//! `OBOL_HOLD=after/Claim/3/FILE`: after the commit that has the third `Claim` fact, the file is made and the journal's thread goes no
//! further; whoever started the process sees the file and kills it. Points are `before` and `after` every fact, by its
//! name ([`NodeFact`](obol_toll::fact::NodeFact), [`PayerFact`](obol_toll::fact::PayerFact); one about an escrow of our own
//! by both names, `Out.Signed`), and every submission that is recorded (`record.flush`) or resolved (`resolve.flush`).
//! A release build has none of this.

/// On which side of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Nothing of it is stored.
    Before,
    /// It is on the disk, and nobody knows yet.
    After,
}

#[cfg(not(debug_assertions))]
pub(crate) fn reached(_: Side, _: &[String]) {}

#[cfg(not(debug_assertions))]
pub(crate) fn names<F>(_: &[F]) -> Vec<String> {
    Vec::new()
}

#[cfg(not(debug_assertions))]
pub(crate) fn named(_: impl FnOnce() -> String) -> Vec<String> {
    Vec::new()
}

#[cfg(debug_assertions)]
pub(crate) use debug::{named, names, reached};

#[cfg(debug_assertions)]
mod debug {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Side;

    struct Point {
        side: Side,
        name: String,
        left: AtomicU32,
        file: PathBuf,
    }

    impl Point {
        fn parse(text: &str) -> Option<Point> {
            let mut parts = text.splitn(4, '/');
            let side = match parts.next()? {
                "before" => Side::Before,
                "after" => Side::After,
                _ => return None,
            };
            Some(Point {
                side,
                name: parts.next()?.to_owned(),
                left: AtomicU32::new(parts.next()?.parse().ok()?),
                file: parts.next()?.into(),
            })
        }
    }

    fn point() -> Option<&'static Point> {
        static POINT: OnceLock<Option<Point>> = OnceLock::new();
        POINT
            .get_or_init(|| {
                let text = std::env::var("OBOL_HOLD").ok()?;
                let point = Point::parse(&text);
                if point.is_none() {
                    tracing::error!("OBOL_HOLD is not SIDE/NAME/COUNT/FILE");
                }
                point
            })
            .as_ref()
    }

    /// The names of facts; none where nothing is to be held.
    pub(crate) fn names<F: std::fmt::Debug>(facts: &[F]) -> Vec<String> {
        match point() {
            Some(_) => facts.iter().map(name_of).collect(),
            None => Vec::new(),
        }
    }

    /// One name; none where nothing is to be held.
    pub(crate) fn named(name: impl FnOnce() -> String) -> Vec<String> {
        point().map(|_| name()).into_iter().collect()
    }

    /// Stops here for good if this is the point.
    pub(crate) fn reached(side: Side, names: &[String]) {
        let Some(point) = point() else { return };
        if point.side != side {
            return;
        }
        for name in names {
            if *name == point.name && point.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                if let Err(error) = std::fs::write(&point.file, b"held") {
                    tracing::error!(%error, "the file of OBOL_HOLD cannot be made");
                }
                loop {
                    std::thread::park();
                }
            }
        }
    }

    /// A fact's name: its variant's, and that of the fact in it.
    pub(super) fn name_of(fact: &impl std::fmt::Debug) -> String {
        let text = format!("{fact:?}");
        let word = |text: &str| text.chars().take_while(char::is_ascii_alphabetic).collect::<String>();
        let first = word(&text);
        match text.get(first.len()..).and_then(|rest| rest.strip_prefix('(')) {
            Some(inner) => format!("{first}.{}", word(inner)),
            None => first,
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use obol_cell::{EscrowId, Stroops};
    use obol_toll::fact::{NodeFact, OutFact};

    use super::debug::name_of;

    #[test]
    fn facts_are_named_as_in_the_code() {
        let signed = NodeFact::Out(OutFact::Signed {
            escrow: EscrowId([1; 32]),
            k: 1,
            cumulative: Stroops::ZERO,
        });
        assert_eq!(name_of(&signed), "Out.Signed");
        assert_eq!(name_of(&NodeFact::Restarted), "Restarted");
        assert_eq!(
            name_of(&NodeFact::InClosing {
                escrow: EscrowId([1; 32])
            }),
            "InClosing"
        );
    }
}
