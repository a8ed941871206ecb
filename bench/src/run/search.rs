//! The highest rate at no loss (NDR) and at little loss (PDR), by a bounded search.
//!
//! After RFC 2544 section 26.1 and FD.io CSIT's multiple-loss-ratio search: each trial
//! sends at one rate, and its loss narrows the bounds of both goals at once. The first
//! trial sends flat out; what it sent bounds the rates from above, and what arrived is
//! the first guess. After it, the goal whose bounds are farthest apart is halved
//! (geometrically). A search ends when both goals are known to [`PRECISION`] or after
//! its number of trials. Its result is the highest rate *seen to pass*, never a guess.
//!
//! Where RFC 2544 wants trials of 60 seconds, these are shorter than one: on a machine
//! whose processors are shared, a minute without an interruption does not exist. Later
//! rounds do not search again: a path that passed flat out is asked flat out again, any
//! other starts from the rates found before and steps up or down, each step the square of
//! the one before, [`STEP`] first: so a round is not bound to what the first one found. The
//! median of the rounds is the result.

use anyhow::{Result, bail};
use serde::Serialize;

/// Loss ratio of the PDR goal: 0.1 %.
pub const PDR_LOSS: f64 = 0.001;

/// The bounds of a rate are as close as is asked for when their ratio is not above this.
const PRECISION: f64 = 1.03;

/// By how much a confirming round changes a rate at first.
const STEP: f64 = 1.05;

/// A trial counts as sent at its rate when it reached this part of it.
pub const SENT: f64 = 0.98;

/// At which rate a trial sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as the generator can.
    FlatOut,
    /// Packets a second.
    Pps(f64),
}

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Packets a second that were sent.
    pub sent_pps: f64,
    /// Part of the packets, 0 to 1, that did not arrive.
    pub loss: f64,
}

/// What a search found, in packets a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Found {
    /// Highest rate seen without any loss.
    pub ndr_pps: Option<f64>,
    /// Highest rate seen with a loss of at most [`PDR_LOSS`].
    pub pdr_pps: Option<f64>,
    /// Trials that were made.
    pub trials: u32,
    /// Whether nothing was lost flat out: the path makes the generator wait instead.
    pub flat_out: bool,
}

/// What is known about one goal.
#[derive(Clone, Debug)]
struct Goal {
    loss: f64,
    /// What was asked for and what was sent, of every trial that passed.
    passes: Vec<(f64, f64)>,
    failed: f64,
    /// What passed flat out: there is no faster.
    fastest: f64,
}

impl Goal {
    fn new(loss: f64) -> Self {
        Self { loss, passes: Vec::new(), failed: f64::INFINITY, fastest: f64::INFINITY }
    }

    /// `rate` is what was asked for, or what was sent when nothing was asked for.
    fn learn(&mut self, rate: f64, trial: Trial) {
        let passes = trial.loss <= self.loss && trial.sent_pps >= SENT * rate;
        if passes {
            self.passes.push((rate, trial.sent_pps));
        } else {
            self.failed = self.failed.min(rate);
        }
    }

    /// The highest rate that passed below every one that failed, or 0. A lucky trial above
    /// a failed one proves nothing: the path is not reliable there.
    fn passed(&self) -> f64 {
        let proven = self.passes.iter().filter(|(rate, _)| *rate < self.failed);
        proven.map(|(_, sent)| *sent).fold(0.0, f64::max)
    }

    /// From here on upwards nothing is to be found.
    fn end(&self) -> f64 {
        self.failed.min(self.fastest)
    }

    fn gap(&self) -> f64 {
        self.end() / self.passed()
    }

    fn found(&self) -> Option<f64> {
        Some(self.passed()).filter(|passed| *passed > 0.0)
    }
}

/// Searches, or, where an earlier round has found both rates, confirms them. A round that
/// lacks one searches again: what was not found once may be there.
///
/// # Errors
/// Those of [`search`] and [`confirm`], which have at most so many trials.
pub fn round(
    known: Option<Found>,
    (search_most, confirm_most): (u32, u32),
    trial: impl FnMut(Rate) -> Result<Trial>,
) -> Result<Found> {
    match known {
        Some(known) if known.ndr_pps.is_some() && known.pdr_pps.is_some() => {
            confirm(known, confirm_most, trial)
        }
        _ => search(search_most, trial),
    }
}

/// Searches with at most `most` trials.
///
/// # Errors
/// Those of `trial`, and when nothing at all arrives.
pub fn search(most: u32, mut trial: impl FnMut(Rate) -> Result<Trial>) -> Result<Found> {
    let mut goals = [Goal::new(0.0), Goal::new(PDR_LOSS)];
    let flat_out = trial(Rate::FlatOut)?;
    if flat_out.sent_pps <= 0.0 || flat_out.loss >= 1.0 {
        bail!("nothing arrived");
    }
    for goal in &mut goals {
        goal.learn(flat_out.sent_pps, flat_out);
        if let Some(passed) = goal.found() {
            goal.fastest = passed;
        }
    }
    let mut trials = 1;
    let pushes_back = flat_out.loss <= 0.0;
    let mut guess = flat_out.sent_pps * (1.0 - flat_out.loss) * 0.97;
    while trials < most {
        let [ndr, pdr] = &goals;
        let goal = if pdr.gap() > ndr.gap() { pdr } else { ndr };
        if goal.gap() <= PRECISION {
            break;
        }
        let rate = if goal.passed() > 0.0 {
            (goal.passed() * goal.end()).sqrt()
        } else if guess < goal.end() {
            guess
        } else {
            goal.end() * 0.7
        };
        guess = rate * 0.7;
        let outcome = trial(Rate::Pps(rate))?;
        trials += 1;
        for goal in &mut goals {
            goal.learn(rate, outcome);
        }
    }
    let [ndr, pdr] = goals;
    let (ndr_pps, pdr_pps) = (ndr.found(), pdr.found());
    Ok(Found { ndr_pps, pdr_pps, trials, flat_out: pushes_back })
}

/// Confirms what an earlier round found, with at most `most` trials a goal: steps up as long
/// as rates pass, or down until one does.
///
/// # Errors
/// Those of `trial`.
pub fn confirm(
    known: Found,
    most: u32,
    mut trial: impl FnMut(Rate) -> Result<Trial>,
) -> Result<Found> {
    let mut goals = [(Goal::new(0.0), known.ndr_pps), (Goal::new(PDR_LOSS), known.pdr_pps)];
    let mut trials = 0;
    if known.flat_out {
        let outcome = trial(Rate::FlatOut)?;
        trials += 1;
        if outcome.loss <= 0.0 && outcome.sent_pps > 0.0 {
            let rate = Some(outcome.sent_pps);
            return Ok(Found { ndr_pps: rate, pdr_pps: rate, trials, flat_out: true });
        }
        for (goal, _) in &mut goals {
            goal.learn(outcome.sent_pps, outcome);
        }
    }
    for at in 0..goals.len() {
        let Some(mut rate) = goals[at].1 else { continue };
        let mut step = STEP;
        for _ in 0..most {
            let (goal, _) = &goals[at];
            if rate <= goal.passed() {
                rate = goal.passed() * step; // the other goal's trials have shown it
            }
            if rate >= goal.failed {
                if goal.passed() > 0.0 {
                    break;
                }
                rate = goal.failed / step;
            }
            let outcome = trial(Rate::Pps(rate))?;
            trials += 1;
            for (goal, _) in &mut goals {
                goal.learn(rate, outcome);
            }
            let (goal, _) = &goals[at];
            rate = if goal.passed() > 0.0 { rate * step } else { rate / step };
            step *= step;
        }
    }
    let [(ndr, _), (pdr, _)] = goals;
    let flat_out = known.flat_out;
    Ok(Found { ndr_pps: ndr.found(), pdr_pps: pdr.found(), trials, flat_out })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One trial as a goal sees it: rate, rate sent, loss.
    type Seen = (f64, f64, f64);

    /// Every rate that is reported was seen to pass, and nothing at or below it failed.
    fn is_proven(found: Option<f64>, goal: f64, seen: &[Seen]) -> bool {
        let passes = |(rate, sent, loss): &Seen| *loss <= goal && *sent >= SENT * rate;
        let first_failed = seen
            .iter()
            .filter(|trial| !passes(trial))
            .map(|(rate, ..)| *rate)
            .fold(f64::INFINITY, f64::min);
        let proven: Vec<f64> = seen
            .iter()
            .filter(|trial| passes(trial) && trial.0 < first_failed)
            .map(|(_, sent, _)| *sent)
            .collect();
        match found {
            Some(found) => proven.contains(&found) && proven.iter().all(|sent| *sent <= found),
            None => proven.is_empty(),
        }
    }

    proptest! {
        #[test]
        fn what_is_found_passed_and_nothing_below_it_failed(
            capacity in 1e4..3e6_f64,
            noise in proptest::collection::vec((0_u32..4, 0.9..1.0_f64), 32),
            confirms in any::<bool>(),
        ) {
            let mut seen: Vec<Seen> = Vec::new();
            let mut noise = noise.into_iter().cycle();
            let trial = |rate| {
                let (luck, speed) = noise.next().unwrap();
                let sent_pps = match rate {
                    Rate::FlatOut => 2e6,
                    Rate::Pps(pps) => f64::min(pps, 2e6) * speed.max(0.97),
                };
                let over = (1.0 - capacity / sent_pps).max(0.0);
                // Lucky above the capacity, unlucky below it.
                let loss = match luck { 0 => 0.0, 1 => over + 0.0005, 2 => over + 0.01, _ => over };
                let asked = match rate { Rate::FlatOut => sent_pps, Rate::Pps(pps) => pps };
                seen.push((asked, sent_pps, loss));
                Ok(Trial { sent_pps, loss: loss.min(0.999) })
            };
            let found = if confirms {
                let rate = Some(capacity);
                let known = Found { ndr_pps: rate, pdr_pps: rate, trials: 8, flat_out: false };
                confirm(known, 6, trial)
            } else {
                search(16, trial)
            }.unwrap();
            prop_assert!(is_proven(found.ndr_pps, 0.0, &seen), "{found:?} {seen:?}");
            prop_assert!(is_proven(found.pdr_pps, PDR_LOSS, &seen), "{found:?} {seen:?}");
        }
    }

    #[test]
    fn a_failure_below_a_pass_leaves_the_passes_below_it() {
        let mut goal = Goal::new(0.0);
        let trial = |sent_pps, loss| Trial { sent_pps, loss };
        for rate in [100.0, 150.0, 300.0] {
            goal.learn(rate, trial(rate, 0.0));
        }
        goal.learn(200.0, trial(200.0, 0.1));
        assert_eq!(goal.found(), Some(150.0), "neither 300, which was luck, nor 200, which failed");
        goal.learn(90.0, trial(90.0, 0.1));
        assert_eq!(goal.found(), None);
    }

    #[test]
    fn a_rate_that_was_not_found_is_searched_again() {
        let rate = Some(4e5);
        let known = Found { ndr_pps: None, pdr_pps: rate, trials: 8, flat_out: false };
        let found = round(Some(known), (8, 2), path(500_000.0, 0.0)).unwrap();
        assert!(found.ndr_pps.is_some_and(|ndr| ndr > 450_000.0), "{found:?}");
        let known = Found { ndr_pps: rate, ..known };
        assert!(round(Some(known), (8, 2), path(5e5, 0.0)).unwrap().trials <= 4, "confirmed");
    }

    /// A path that carries `capacity` packets a second and loses the rest; below it,
    /// `dust` packets of a thousand. The generator reaches 2 million.
    fn path(capacity: f64, dust: f64) -> impl FnMut(Rate) -> Result<Trial> {
        move |rate| {
            let sent_pps = match rate {
                Rate::FlatOut => 2e6,
                Rate::Pps(pps) => pps.min(2e6),
            };
            let loss = if sent_pps > capacity { 1.0 - capacity / sent_pps } else { dust };
            Ok(Trial { sent_pps, loss })
        }
    }

    #[test]
    fn a_path_that_pushes_back_needs_one_trial() {
        let found = search(8, path(5e6, 0.0)).unwrap();
        let rate = Some(2e6);
        let wanted = Found { ndr_pps: rate, pdr_pps: rate, trials: 1, flat_out: true };
        assert_eq!(found, wanted);
        assert_eq!(confirm(found, 3, path(5e6, 0.0)).unwrap(), wanted, "and one to confirm it");
        let worse = confirm(found, 4, path(1.9e6, 0.0)).unwrap();
        assert!(worse.ndr_pps.is_some_and(|ndr| ndr <= 1.9e6), "{worse:?}");
    }

    #[test]
    fn the_capacity_is_found_from_below() {
        for capacity in [40_000.0, 333_000.0, 1_500_000.0] {
            let found = search(8, path(capacity, 0.0)).unwrap();
            let (ndr, pdr) = (found.ndr_pps.unwrap(), found.pdr_pps.unwrap());
            assert!(ndr <= capacity && ndr > capacity * 0.95, "{capacity}: {found:?}");
            assert!(pdr >= ndr && pdr <= capacity * 1.002, "{capacity}: {found:?}");
            assert!(found.trials <= 8, "{found:?}");
        }
    }

    #[test]
    fn a_path_that_always_loses_a_little_has_no_rate_without_loss() {
        let found = search(8, path(500_000.0, 0.0005)).unwrap();
        assert_eq!(found.ndr_pps, None);
        assert!(found.pdr_pps.unwrap() > 450_000.0, "{found:?}");
        assert!(search(8, |_| Ok(Trial { sent_pps: 1e6, loss: 1.0 })).is_err());
    }

    #[test]
    fn a_generator_that_is_too_slow_is_not_a_pass() {
        // It sends 100,000 whatever is asked for: no trial above that counts.
        let mut slow = |rate| {
            let sent_pps = match rate {
                Rate::FlatOut => 1e6,
                Rate::Pps(pps) => f64::min(pps, 1e5),
            };
            Ok(Trial { sent_pps, loss: if sent_pps > 5e5 { 0.5 } else { 0.0 } })
        };
        let found = search(8, &mut slow).unwrap();
        assert!(found.ndr_pps.is_none_or(|ndr| ndr <= 1.03e5), "{found:?}");
    }

    #[test]
    fn a_later_round_moves_with_the_machine() {
        let rate = Some(1e6);
        let known = Found { ndr_pps: rate, pdr_pps: rate, trials: 8, flat_out: false };
        let same = confirm(known, 3, path(1.02e6, 0.0)).unwrap();
        assert_eq!((same.ndr_pps, same.pdr_pps), (Some(1e6), Some(1e6)));
        let slower = confirm(known, 3, path(0.93e6, 0.0)).unwrap();
        assert!(slower.ndr_pps.unwrap() <= 0.93e6, "{slower:?}");
        let faster = confirm(known, 3, path(1.5e6, 0.0)).unwrap();
        assert!(faster.ndr_pps.unwrap() > 1e6, "{faster:?}");
        let broken = confirm(known, 3, path(0.1e6, 0.0)).unwrap();
        assert_eq!(broken.ndr_pps, None);
        assert!(broken.trials <= 6);
    }
}
