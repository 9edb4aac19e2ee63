//! What holds whatever happens: alerts come, go and are muted, deliveries fail in every way, the daemon ends and starts.

use proptest::prelude::*;

use super::*;

const N_ALERTS: usize = 5;

#[derive(Clone, Debug)]
enum Act {
    Wait(u64),
    Fire(usize),
    End(usize),
    Mute(usize, bool),
    /// What becomes of notices from now on.
    Fate(Fate),
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Taken,
    /// Taken, and no answer came.
    Unclear,
    /// Not taken, and no answer came.
    Dropped,
    Refused,
    RefusedForGood,
    /// Taken, and the worker never reports.
    Unreported,
}

fn act() -> impl Strategy<Value = Act> {
    let alert = 0..N_ALERTS;
    let fate = prop::sample::select(vec![
        Fate::Taken,
        Fate::Unclear,
        Fate::Dropped,
        Fate::Refused,
        Fate::RefusedForGood,
        Fate::Unreported,
    ]);
    prop_oneof![
        4 => (0..400_u64).prop_map(Act::Wait),
        4 => (0..8_u64).prop_map(Act::Wait),
        4 => alert.clone().prop_map(Act::Fire),
        3 => alert.clone().prop_map(Act::End),
        1 => (alert, any::<bool>()).prop_map(|(alert, is_muted)| Act::Mute(alert, is_muted)),
        2 => fate.prop_map(Act::Fate),
        1 => Just(Act::Restart),
    ]
}

fn config() -> impl Strategy<Value = AlertingConfig> {
    (any::<bool>(), 0..6_u64, 0..90_u64, 0..5_u32, 2..6_u32).prop_map(|(alone, wait, interval, flapping, most)| {
        AlertingConfig {
            group_by: if alone { GroupBy::Alert } else { GroupBy::Cluster },
            group_wait: Duration::from_secs(wait),
            group_interval: Duration::from_secs(interval),
            repeat_interval: Duration::from_secs(3600),
            flapping,
            max_per_minute: most,
        }
    })
}

/// One alert, as it truly is and as the notifier knows it.
#[derive(Clone, Debug, Default)]
struct Truth {
    fires: bool,
    began: u64,
    episode: Option<Episode>,
    is_muted: bool,
    /// What the notifier was sent last, and took: whether it fires, and which episode.
    heard: Option<(Phase, u64)>,
    /// It may believe that the alert fires.
    may_believe: bool,
    last_sent: u64,
}

struct World {
    ledger: Ledger,
    config: AlertingConfig,
    truths: Vec<Truth>,
    second: u64,
    fate: Fate,
    /// When notices were handed out in this life of the daemon.
    sent: Vec<u64>,
}

impl World {
    fn new(config: AlertingConfig) -> Self {
        Self {
            ledger: Self::ledger(&config),
            config,
            truths: vec![Truth::default(); N_ALERTS],
            second: 1000,
            fate: Fate::Taken,
            sent: Vec::new(),
        }
    }

    fn ledger(config: &AlertingConfig) -> Ledger {
        let recipient = Recipient { group_by: config.group_by, ..Recipient::new("pager") };
        Ledger::new(vec![recipient], config.clone())
    }

    fn id(index: usize) -> AlertId {
        let cluster = Name::new(if index < 3 { "a" } else { "b" });
        AlertId { rule: Name::new(&format!("R{index}")), cluster, target: None, labels: vec![] }
    }

    fn now(&self) -> MonoTime {
        MonoTime::from_nanos(0).plus(Duration::from_secs(self.second))
    }

    fn set(&mut self, index: usize, fires: bool) {
        let now = self.now();
        let truth = &mut self.truths[index];
        if truth.fires == fires {
            return;
        }
        truth.fires = fires;
        if fires {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(self.second);
            truth.episode = Some(Episode::begin(wall, truth.episode));
            // So that each life is told from the one before it, also within a second.
            truth.began = (truth.began + 1).max(self.second * 1000);
            truth.is_muted = false;
        }
        let alert = AlertView {
            gone: None,
            recent: crate::core::alert::Recent::default(),
            id: Self::id(index),
            severity: if index.is_multiple_of(2) { Severity::Critical } else { Severity::Warning },
            phase: if fires { Phase::Firing } else { Phase::Resolved },
            active_at: MonoTime::from_nanos(truth.began.cast_signed()),
            fired_at: None,
            resolved_at: None,
            reading: None,
            is_unknown: false,
            condition: String::new(),
            unit: crate::core::signal::Unit::Seconds,
            rule_labels: vec![],
            summary: None,
            runbook: None,
            muted: vec![],
        };
        let episode = truth.episode.expect("it has fired");
        self.ledger.set(alert, episode, now);
    }

    fn mute(&mut self, index: usize, is_muted: bool) {
        if self.truths[index].fires {
            self.truths[index].is_muted = is_muted;
            let muted = is_muted.then_some(Muted { hold: Duration::from_secs(30), cause: None });
            self.ledger.mute(&Self::id(index), muted, self.now());
        }
    }

    fn restart(&mut self) {
        let saved: Vec<(AlertId, String)> = self
            .ledger
            .saved()
            .map(|(id, account)| (id.clone(), serde_json::to_string(&account).expect("it is text")))
            .collect();
        self.ledger = Self::ledger(&self.config);
        let now = self.now();
        for (id, account) in saved {
            self.ledger.restore(id, serde_json::from_str(&account).expect("an account"), now);
        }
        // Judged anew, an alert is found muted or not at once.
        for index in 0..N_ALERTS {
            self.mute(index, self.truths[index].is_muted);
        }
        self.sent.clear();
    }

    fn tell(&mut self) -> Result<usize, TestCaseError> {
        let mut n_told = 0;
        loop {
            let due = self.ledger.due(self.now());
            if due.is_empty() {
                return Ok(n_told);
            }
            for due in due {
                n_told += 1;
                self.sent.push(self.second);
                let n_of_late = self.sent.iter().filter(|at| **at + 60 > self.second).count();
                prop_assert!(n_of_late <= self.config.max_per_minute as usize, "{n_of_late} within a minute");
                self.deliver(due)?;
            }
        }
    }

    fn deliver(&mut self, due: Due) -> Result<(), TestCaseError> {
        let is_taken = matches!(self.fate, Fate::Taken | Fate::Unclear | Fate::Unreported);
        for (alert, _) in due.alerts.iter().filter(|_| due.purpose != Purpose::Held) {
            let index = (0..N_ALERTS).find(|index| Self::id(*index) == alert.id).expect("one of ours");
            let truth = &mut self.truths[index];
            let began = alert.active_at.as_nanos().cast_unsigned();
            prop_assert!(began >= truth.last_sent, "an earlier life is told after a later one");
            truth.last_sent = began;
            prop_assert_eq!(alert.phase == Phase::Firing, truth.fires, "what is told is true");
            if alert.phase == Phase::Firing {
                prop_assert!(!truth.is_muted, "{} is muted", alert.id);
                truth.may_believe = true;
            } else if due.purpose == Purpose::Alerts {
                prop_assert!(truth.may_believe, "{} resolved, and nobody was told that it fires", alert.id);
            }
            if is_taken {
                truth.heard = Some((alert.phase, began));
            }
            if alert.phase == Phase::Resolved && self.fate == Fate::Taken {
                truth.may_believe = false;
            }
        }
        let outcome = match self.fate {
            Fate::Taken => Ok(()),
            Fate::Unclear | Fate::Dropped => Err(SendFailure::Unclear("no answer".to_owned())),
            Fate::Refused => Err(SendFailure::Transient("busy".to_owned())),
            Fate::RefusedForGood => Err(SendFailure::Permanent("forbidden".to_owned())),
            Fate::Unreported => return Ok(()),
        };
        let Due { notifier, group, dedup_key, .. } = due;
        self.ledger.record(&Delivery { notifier, group, dedup_key, outcome }, self.now());
        Ok(())
    }

    fn wait(&mut self, seconds: u64) -> Result<(), TestCaseError> {
        for _ in 0..seconds {
            self.second += 1;
            self.tell()?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_transition_is_lost_and_nothing_untrue_is_told(
        config in config(),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(config);
        for act in acts {
            match act {
                Act::Wait(seconds) => world.wait(seconds)?,
                Act::Fire(alert) => world.set(alert, true),
                Act::End(alert) => world.set(alert, false),
                Act::Mute(alert, is_muted) => world.mute(alert, is_muted),
                Act::Fate(fate) => world.fate = fate,
                Act::Restart => world.restart(),
            }
            world.tell()?;
        }
        // Whatever is true then is known when the faults are over: after the longest wait for another attempt, and calm.
        world.fate = Fate::Taken;
        for alert in 0..N_ALERTS {
            world.mute(alert, false);
        }
        world.wait(3700)?;
        for (index, truth) in world.truths.iter().enumerate() {
            if truth.fires {
                prop_assert_eq!(truth.heard, Some((Phase::Firing, truth.began)), "R{} fires", index);
            } else {
                prop_assert!(!matches!(truth.heard, Some((Phase::Firing, _))), "R{} is over: {:?}", index, truth);
            }
        }
        // And then there is quiet, but for what fires on.
        let n_before = world.sent.len();
        world.wait(3600)?;
        prop_assert!(world.sent.len() - n_before <= 2 * N_ALERTS, "{} more", world.sent.len() - n_before);
    }
}
