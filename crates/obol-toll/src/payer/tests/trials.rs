//! Whether paying helps (2.12).

use super::*;

/// A tunnel that carries 2,000 cells every 100 ms while it is paid, and `unpaid` while it is not; what was said of it in `seconds`.
fn carried(seed: u8, unpaid: u64, seconds: u64) -> (Vec<Report>, Vec<u64>) {
    let config = PayerConfig {
        pay: PayPolicy::WhenItHelps,
        ..config()
    };
    let mut desk = Desk::new(config, &[100]);
    desk.payer = Payer::new(config, Keys, [seed; 32]);
    desk.open();
    desk.quote();
    desk.fund();
    let (mut metered, mut bought, mut steps) = (0, 0, Vec::new());
    for _ in 0..seconds * 10 {
        loop {
            desk.keep_payments();
            if desk.out.is_empty() {
                break;
            }
            let pay = desk.payment(1).remove(0);
            bought += pay.step.bytes();
            steps.push(pay.step.bytes());
            desk.complete(pay.n, metered);
        }
        let cells = if metered < bought { 2_000 } else { unpaid };
        metered += cells * meter::CELL;
        desk.now = desk.now.plus(100);
        desk.say(Input::Traffic {
            tunnel: T,
            up: 0,
            down: cells,
        });
        if desk.payer.next_wake().is_some_and(|at| at <= desk.now) {
            desk.say(Input::Tick);
        }
    }
    (desk.reports, steps)
}

fn helps(reports: &[Report]) -> Vec<bool> {
    let told = reports.iter().filter_map(|r| match r {
        Report::Helps { helps, .. } => Some(*helps),
        _ => None,
    });
    told.collect()
}

#[test]
fn where_not_paying_slows_it_is_found_that_paying_helps() {
    let mut told = Vec::new();
    for seed in 0..6 {
        let (reports, _) = carried(seed, 100, 120);
        let withheld = reports.iter().filter(|r| matches!(r, Report::Withheld { .. })).count();
        let first_paid = reports.iter().position(|r| matches!(r, Report::Withheld { .. }));
        let paid = |r: &&Report| matches!(r, Report::Paid { .. });
        assert!(reports[..first_paid.unwrap_or(0)].iter().filter(paid).count() >= 4 || withheld == 0);
        told.extend(helps(&reports));
    }
    // A pace that was measured while a payment was late is not one to compare with: it errs now and then.
    let right = told.iter().filter(|helps| **helps).count();
    assert!(right > 10 && right * 10 >= told.len() * 9, "{told:?}");
}

#[test]
fn where_not_paying_slows_nothing_it_is_paid_half_as_often() {
    let (mut without, mut told) = (0, Vec::new());
    for seed in 0..6 {
        let (reports, steps) = carried(seed, 2_000, 120);
        told.extend(helps(&reports));
        without += steps.iter().sum::<u64>();
    }
    assert!(!told.is_empty() && told.iter().all(|helps| !helps), "{told:?}");
    let carried = 6 * 1_200 * 2_000 * meter::CELL;
    assert!(without < carried * 3 / 4, "{without} of {carried} bytes were paid for");
    assert!(without > carried / 4, "{without} of {carried} bytes were paid for");
}

#[test]
fn a_measurement_takes_two_seconds() {
    for seed in 0..20 {
        let config = PayerConfig {
            pay: PayPolicy::WhenItHelps,
            ..config()
        };
        let mut desk = Desk::new(config, &[100]);
        desk.payer = Payer::new(config, Keys, [seed; 32]);
        desk.open();
        desk.quote();
        desk.fund();
        let mut metered = 0;
        let mut since = None;
        for _ in 0..400 {
            desk.keep_payments();
            if !desk.out.is_empty() {
                let pay = desk.payment(1).remove(0);
                desk.complete(pay.n, metered);
                continue;
            }
            let measuring = desk.payer.tunnels[&T].trial;
            if let tunnel::Trial::Measuring { .. } = measuring {
                since = Some(desk.now);
                break;
            }
            metered += 100 * meter::CELL;
            desk.carry(100 * meter::CELL);
        }
        let Some(since) = since else { continue };
        assert!(desk.payer.next_wake() <= Some(since.plus(2_000)));
        desk.now = since.plus(1_999);
        desk.say(Input::Tick);
        assert_eq!(helps(&desk.reports), []);
        desk.now = since.plus(2_000);
        desk.say(Input::Tick);
        assert_eq!(helps(&desk.reports).len(), 1);
        return;
    }
    panic!("no seed withholds a step");
}
