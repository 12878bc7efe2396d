//! Defects put in on purpose, to see that the tests catch them. Compiled into unit tests only: everywhere else
//! [`on`] is a constant `false`.

/// One thing that an implementation could do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Outputs do not wait for their facts.
    ActBeforePersist,
    /// A k that was seen is taken again.
    NoReplayBitmap,
    /// A hop passes on more than came in.
    ForwardTooMuch,
    /// After a restart a payer signs less than it signed before.
    SignLess,
    /// A payment that is done is credited again when it is repeated.
    CreditTwice,
    /// Any step is sold at any time.
    NoGrowth,
    /// A refused payment is given back to the payer upstream, and kept as well.
    ReturnUpstream,
    /// A client pays whatever is quoted.
    NoCeilings,
    /// Allocations are not compared with what the claims cover.
    DrawAboveBalance,
    /// A restart forgets what was held for clients' circuits.
    ForgetHeld,
    /// A closing escrow's higher claims are stored after all.
    CreditWhileClosing,
    /// An allocation that does not fit is credited in part.
    CreditPart,
    /// A client believes hops' meters whatever the link to its guard carried.
    NoLinkBound,
    /// A client pays again for what a hop refused, again and again.
    PayAgain,
}

#[cfg(test)]
thread_local! {
    static ON: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Whether `defect` was put in, in this thread.
#[cfg(test)]
pub(crate) fn on(defect: Defect) -> bool {
    ON.get() == Some(defect)
}

/// Never, outside of tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn on(_: Defect) -> bool {
    false
}

/// Runs `f` with `defect` put in.
#[cfg(test)]
pub(crate) fn with<T>(defect: Defect, f: impl FnOnce() -> T) -> T {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            ON.set(None);
        }
    }
    ON.set(Some(defect));
    let _off = Off;
    f()
}
