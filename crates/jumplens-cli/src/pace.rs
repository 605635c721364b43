//! How fast work goes, and how long what is left of it takes. The clock is the caller's: all times are since the work began.

use std::collections::VecDeque;
use std::time::Duration;

/// What the rate is measured over, once the work has gone on for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Before that, this share of the time gone by: what is slow at first is soon forgotten.
const SHARE: u32 = 4;
/// Steps that the rate is measured over at least, however long ago they were: work that comes in few steps has no other rate.
const FEWEST: usize = 4;
/// Steps that follow one another within this time came together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Before that, nothing is said.
const EARLIEST: Duration = Duration::from_secs(1);

/// Work of which `total` is to be done.
#[derive(Debug)]
pub struct Pace {
    total: u64,
    /// When more was done, and all that was done by then; the first is the beginning.
    steps: VecDeque<(Duration, u64)>,
}

/// The rate over the last steps.
struct Recent {
    /// What was done in them.
    done: u64,
    /// From the first of them to the last.
    time: Duration,
    /// The longest from one to the next.
    longest: Duration,
    /// From the last one until now.
    since: Duration,
}

impl Recent {
    /// Nothing has come for so long that it is no longer the wait for a step as those before it.
    fn overdue(&self) -> Duration {
        self.since.saturating_sub(self.longest)
    }

    fn seconds_each(&self) -> f64 {
        (self.time + self.overdue()).as_secs_f64() / self.done as f64
    }
}

impl Pace {
    pub fn new(total: u64) -> Self {
        Self { total, steps: VecDeque::from([(Duration::ZERO, 0)]) }
    }

    /// All that is done.
    pub fn done(&self) -> u64 {
        self.steps.back().map_or(0, |(_, done)| *done)
    }

    /// In percent; `None` where nobody knows how much it is.
    pub fn percent(&self) -> Option<u64> {
        (u128::from(self.done().min(self.total)) * 100)
            .checked_div(self.total.into())
            .map(|share| share as u64)
    }

    /// That much more was done by `now`.
    pub fn advance(&mut self, amount: u64, now: Duration) {
        let done = self.done().saturating_add(amount);
        match self.steps.back_mut() {
            Some((at, last)) if *last > 0 && now.saturating_sub(*at) < TOGETHER => *last = done,
            _ => self.steps.push_back((now, done)),
        }
        let first = self.first(now);
        self.steps.drain(..first);
    }

    /// Where the steps begin that the rate is measured over.
    fn first(&self, now: Duration) -> usize {
        let from = now.saturating_sub(WINDOW.min(now / SHARE));
        let late = self.steps.iter().rposition(|(at, _)| *at <= from).unwrap_or(0);
        late.min(self.steps.len().saturating_sub(1 + FEWEST))
    }

    fn recent(&self, now: Duration) -> Option<Recent> {
        let steps: Vec<(Duration, u64)> = self.steps.range(self.first(now)..).copied().collect();
        let [(first, before), .., (last, done)] = steps[..] else { return None };
        let longest = steps.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
        let recent =
            Recent { done: done - before, time: last - first, longest, since: now.saturating_sub(last) };
        // One step alone may have waited for anything.
        (steps.len() > 2 && recent.done > 0 && now >= EARLIEST).then_some(recent)
    }

    /// Of late, by second; `None` before there is evidence.
    pub fn per_second(&self, now: Duration) -> Option<f64> {
        self.recent(now).map(|recent| 1.0 / recent.seconds_each())
    }

    /// How long what is left takes at the rate of late; `None` before there is evidence.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let recent = self.recent(now)?;
        let left = self.total.checked_sub(self.done())? as f64 * recent.seconds_each();
        // What is under way shows when its step comes.
        let under_way = recent.since.min(recent.longest).as_secs_f64();
        Duration::try_from_secs_f64((left - under_way).max(0.0)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 10_000_000;

    /// Work as it goes: when how much is done, in steps.
    struct Profile {
        name: &'static str,
        steps: Vec<(f64, u64)>,
    }

    impl Profile {
        /// `seconds` says when so large a share of the work is done; it comes in `count` steps.
        fn new(name: &'static str, count: u64, seconds: impl Fn(f64) -> f64) -> Self {
            let step = |index: u64| {
                let done = TOTAL * index / count;
                (seconds(done as f64 / TOTAL as f64), done)
            };
            Self { name, steps: (1..=count).map(step).collect() }
        }

        fn end(&self) -> f64 {
            self.steps.last().unwrap().0
        }

        /// The largest share by which the estimate is off, looked at 2,000 times after a fifth of the work is done, but for a
        /// second, which is not shown.
        fn worst(&self) -> f64 {
            let mut pace = Pace::new(TOTAL);
            let mut steps = self.steps.iter().peekable();
            let (mut before, mut worst) = (0, 0.0f64);
            for tick in 1..2000 {
                let now = self.end() * f64::from(tick) / 2000.0;
                while let Some((at, done)) = steps.next_if(|(at, _)| *at <= now) {
                    pace.advance(done - before, Duration::from_secs_f64(*at));
                    before = *done;
                }
                if pace.percent().unwrap() >= 20 {
                    let (left, really) =
                        (pace.left(Duration::from_secs_f64(now)).unwrap().as_secs_f64(), self.end() - now);
                    let off = (left - really).abs();
                    worst = worst.max((off - 1.0) / really);
                }
            }
            worst
        }
    }

    /// Seconds of work that goes at one speed until the share `change` is done, and `times` as slowly from then on.
    fn two_speeds(seconds: f64, change: f64, times: f64) -> impl Fn(f64) -> f64 {
        move |share| seconds * (share.min(change) + times * (share - change).max(0.0))
    }

    /// Steady; slow until a tenth is done (a fifth of the speed); bursts, as batches of several threads arrive together; uneven
    /// batches; slowing down to half the speed, at once at several places, and little by little. From 20 seconds to a day.
    #[test]
    fn time_left_is_never_off_by_more_than_half_after_a_fifth_of_the_work() {
        let mut profiles = Vec::new();
        for seconds in [20.0, 100.0, 1000.0, 10_000.0, 86_400.0] {
            profiles.push(Profile::new("steady", 1000, move |share| seconds * share));
            profiles.push(Profile::new("steady, few steps", 12, move |share| seconds * share));
            profiles.push(Profile::new("slow start", 1000, move |share| {
                seconds * (5.0 * share.min(0.1) + (share - 0.1).max(0.0))
            }));
            for interval in [0.3, 5.0, 40.0] {
                let bursts = (seconds / interval).floor();
                if (6.0..1e4).contains(&bursts) {
                    // Four batches, from as many threads, within milliseconds.
                    profiles.push(Profile::new("bursts", 4 * bursts as u64, move |share: f64| {
                        let batch = (share * 4.0 * bursts).round() - 1.0;
                        interval * (1.0 + (batch / 4.0).floor()) + 0.003 * (batch % 4.0)
                    }));
                }
            }
            // Of half a second at most, each between a tenth of that and nearly twice as long.
            let batches = (2.0 * seconds).max(400.0);
            let ends: Vec<f64> = (0..=batches as u32)
                .scan(0.0, |end, batch| {
                    let now = *end;
                    *end += 0.1 + 1.8 * (f64::from(batch) * 0.618_034).fract();
                    Some(now * seconds / batches)
                })
                .collect();
            profiles.push(Profile::new("uneven batches", batches as u64, move |share| {
                ends[(share * batches).round() as usize]
            }));
            for change in [0.1, 0.3, 0.5, 0.7, 0.9] {
                profiles.push(Profile::new("half the speed", 1000, two_speeds(seconds, change, 2.0)));
            }
            profiles.push(Profile::new("slower and slower", 1000, move |share| {
                seconds * (share + share * share / 2.0)
            }));
        }
        for profile in profiles {
            let worst = profile.worst();
            // Where the speed halves, whatever goes by the speed until then is off by half, and by what a step takes.
            assert!(worst < 0.51, "{} of {} s: off by {worst:.3}", profile.name, profile.end());
        }
    }

    #[test]
    fn nothing_is_said_before_there_is_evidence() {
        let seconds = Duration::from_secs_f64;
        let mut pace = Pace::new(100);
        assert_eq!((pace.left(seconds(9.0)), pace.per_second(seconds(9.0))), (None, None), "nothing is done");
        pace.advance(1, seconds(10.0));
        assert_eq!(pace.left(seconds(10.0)), None, "the first step may have waited for anything");
        pace.advance(1, seconds(11.0));
        assert!(pace.left(seconds(11.0)).is_some());
        let mut fast = Pace::new(100);
        (1..=9).for_each(|step| fast.advance(1, seconds(f64::from(step) * 0.1)));
        assert_eq!(fast.left(seconds(0.9)), None, "within the first second");
        assert_eq!(Pace::new(0).percent(), None);
    }

    #[test]
    fn work_that_stands_still_takes_longer_and_longer() {
        let seconds = Duration::from_secs_f64;
        let mut pace = Pace::new(100);
        (1..=50).for_each(|step| pace.advance(1, seconds(f64::from(step))));
        let left = |now: f64| pace.left(seconds(now)).unwrap().as_secs_f64();
        assert!((left(50.0) - 50.0).abs() < 1e-6);
        assert!((left(50.5) - 49.5).abs() < 1e-6, "while the next step is awaited");
        assert!(left(60.0) > 49.0 && left(300.0) > 2.0 * left(60.0), "{} {}", left(60.0), left(300.0));
        assert!(left(1e7) > left(300.0), "a clock that runs on is no fault");
    }

    #[test]
    fn memory_does_not_grow_with_the_steps() {
        let mut pace = Pace::new(1_000_000);
        for step in 1..=1_000_000u64 {
            pace.advance(1, Duration::from_millis(step));
        }
        assert!(pace.steps.len() < 1300, "{}", pace.steps.len());
        assert_eq!((pace.done(), pace.percent()), (1_000_000, Some(100)));
        let rate = pace.per_second(Duration::from_secs(1000)).unwrap();
        assert!((rate - 1000.0).abs() < 20.0, "{rate}");
    }
}
