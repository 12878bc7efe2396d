//! Handshakes that wait to be computed.

use super::*;

const SECOND: u64 = 1_000_000;

/// One relay with two workers, whose handshakes nobody computes by himself.
struct Busy {
    net: Net,
    client: usize,
    jobs: Vec<HandshakeJob>,
    last: u32,
}

impl Busy {
    fn new() -> Busy {
        let mut net = Net::new([EngineConfig {
            handshake_workers: 2,
            ..EngineConfig::default()
        }]);
        let client = net.client(0);
        Busy {
            net,
            client,
            jobs: Vec::new(),
            last: 0x8000_0000,
        }
    }

    /// CREATE_FASTs; returns their ids.
    fn create(&mut self, number: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        for _ in 0..number {
            self.last += 1;
            let id = self.last;
            self.net
                .send_cell(self.client, id, command::CREATE_FAST, &id.to_be_bytes());
            ids.push(id);
        }
        while let Some(event) = self.net.nodes[0].poll_event() {
            if let Event::Handshake(job) = event {
                self.jobs.push(job);
            }
        }
        self.net.deliver(self.client, 10_000);
        ids
    }

    /// How many of these were refused for want of room.
    fn refused(&mut self, ids: &[u32]) -> usize {
        self.net.deliver(self.client, 10_000);
        let mut refused = 0;
        for id in ids {
            for (command, body) in self.net.cells(self.client, *id) {
                assert_eq!(
                    (command, body[0]),
                    (command::DESTROY, DestroyReason::ResourceLimit as u8)
                );
                refused += 1;
            }
        }
        refused
    }

    /// Does what waits, each in so many microseconds of a worker.
    fn work(&mut self, micros: u64) -> usize {
        let mut done = 0;
        for job in std::mem::take(&mut self.jobs) {
            let now = self.net.now;
            if !self.net.nodes[0].take_up(now, &job) {
                continue;
            }
            let answer = HandshakeAnswer {
                reply: vec![9; 40],
                keys: keys(1),
                congestion_control: None,
            };
            self.net.nodes[0].created(now, job.circuit, Some(answer));
            self.net.nodes[0].handshake_took(micros);
            self.net.deliver(self.client, 10_000);
            done += 1;
        }
        assert_eq!(self.net.nodes[0].counters().handshakes_pending, 0);
        done
    }
}

#[test]
fn as_many_may_wait_as_can_be_computed_before_the_last_has_waited_too_long() {
    let mut busy = Busy::new();
    busy.create(40);
    assert_eq!(busy.work(50_000), 40);
    // 70 of 50 milliseconds take two workers 1.75 seconds.
    let ids = busy.create(100);
    assert_eq!(busy.refused(&ids), 100 - 71);
    let counters = busy.net.nodes[0].counters();
    assert_eq!((counters.creates_refused, counters.handshakes_pending), (29, 71));
    // They turn out to be faster, all in all.
    assert_eq!(busy.work(1_000), 71);
    for _ in 0..20 {
        busy.create(80);
        busy.work(1_000);
    }
    let ids = busy.create(400);
    assert_eq!(busy.refused(&ids), 0);
    // And some pass however slow they are.
    busy.work(1_900_000);
    let ids = busy.create(60);
    assert_eq!(busy.refused(&ids), 10);
}

#[test]
fn a_handshake_that_has_waited_for_five_seconds_is_given_up_and_one_that_nobody_waits_for_is_not_computed() {
    let mut busy = Busy::new();
    let old = busy.create(3);
    busy.net.now = busy.net.now.plus(4 * SECOND);
    let young = busy.create(3);
    busy.net.send_cell(busy.client, young[0], command::DESTROY, &[0]);
    busy.net.now = busy.net.now.plus(SECOND + 1);
    assert_eq!(busy.work(100), 2);
    assert_eq!(busy.refused(&old), 3);
    let counters = busy.net.nodes[0].counters();
    assert_eq!((counters.handshakes_late, counters.circuits_opened), (3, 2));
    assert_eq!(counters.circuits, [0, 2]);
}
