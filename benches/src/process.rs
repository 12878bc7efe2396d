//! What a process used, as the operating system counts it.

use std::io;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// CPU time of all threads of a process, ended ones included, to the nanosecond.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let now = ClockId::pid_cpu_clock_id(pid)?.now()?;
    Ok(Duration::from(now))
}

/// CPU time of this thread so far.
pub fn thread_time() -> Duration {
    // A thread has a clock on every system that this compiles for.
    ClockId::CLOCK_THREAD_CPUTIME_ID
        .now()
        .map_or(Duration::ZERO, Duration::from)
}

/// Bytes of memory that a process has in use (`VmRSS`).
///
/// # Errors
/// If there is no such process, or its system tells otherwise.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("no VmRSS in /proc/PID/status"))
}

/// The share of user and system time in a process' CPU time, so far.
///
/// # Errors
/// If there is no such process.
pub fn user_and_system(pid: u32) -> io::Result<(Duration, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may contain anything: fields are counted from its closing bracket.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        // 100 a second on every Linux that matters: USER_HZ is part of its interface.
        (Some(user), Some(system)) => Ok((Duration::from_millis(user * 10), Duration::from_millis(system * 10))),
        _ => Err(io::Error::other("no times in /proc/PID/stat")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_cpu_time_and_memory() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let mut sum = 0u64;
        while cpu_time(own).unwrap() - before < Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        assert!(resident(own).unwrap() > 100_000);
        user_and_system(own).unwrap();
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(cpu_time(u32::MAX).is_err());
        assert!(resident(u32::MAX).is_err());
    }
}
