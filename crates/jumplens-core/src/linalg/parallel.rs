//! Work spread over threads by the task: each task runs on few threads (usually one), so that its many small products
//! do not wait for one another, and its data stay in one core's cache.

use crate::error::Error;
use crate::linalg::Isa;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Runs `work` on every task, at most `lanes` at one time, sharing out the threads of the current pool. `take` gets each
/// result with its task's number on the calling thread, in the order of the tasks. The first error ends it all;
/// [`Error::Threads`] where the system starts no more.
pub fn for_each<T: Sync, R: Send, E: From<Error> + Send>(
    tasks: &[T],
    lanes: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
    mut take: impl FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = rayon::current_num_threads();
    let lanes = lanes.min(threads).min(tasks.len()).max(1);
    if lanes == 1 {
        return tasks.iter().enumerate().try_for_each(|(index, task)| take(index, work(task)?));
    }
    // The threads of a lane use the instructions that this one does.
    let isa = Isa::current();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel::<(usize, Result<R, E>)>();
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let sender = sender.clone();
            let (next, stop, work) = (&next, &stop, &work);
            let share = threads / lanes + usize::from(lane < threads % lanes);
            let unstarted = sender.clone();
            let failed = move |reason: String| E::from(Error::Threads { threads: share, reason });
            let started = std::thread::Builder::new().spawn_scoped(scope, move || {
                let pool = match isa.pool(share) {
                    Ok(pool) => pool,
                    Err(error) => return drop(sender.send((0, Err(E::from(error))))),
                };
                pool.install(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(task) = tasks.get(index) else { break };
                        if sender.send((index, work(task))).is_err() {
                            break;
                        }
                    }
                });
            });
            if let Err(error) = started {
                drop(unstarted.send((0, Err(failed(error.to_string())))));
            }
        }
        drop(sender);
        let mut waiting = std::collections::BTreeMap::new();
        let mut due = 0;
        let outcome = receiver.iter().try_for_each(|(index, result)| {
            waiting.insert(index, result?);
            while let Some(result) = waiting.remove(&due) {
                take(due, result)?;
                due += 1;
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        drop(receiver);
        outcome
    })
}

/// Sums over the rows of `x`, row-major `[n, d]`, by column: `add(i, row, sums)` adds what row `i` brings. The order of
/// additions does not depend on the threads.
pub fn column_sums(x: &[f32], d: usize, add: impl Fn(usize, &[f32], &mut [f64]) + Sync) -> Vec<f64> {
    const ROWS: usize = 256;
    let blocks: Vec<Vec<f64>> = x
        .par_chunks(d * ROWS)
        .enumerate()
        .map(|(block, rows)| {
            let mut sums = vec![0f64; d];
            rows.chunks_exact(d).enumerate().for_each(|(i, row)| add(block * ROWS + i, row, &mut sums));
            sums
        })
        .collect();
    (0..d).map(|j| blocks.iter().map(|block| block[j]).sum()).collect()
}

/// The values in f64.
pub fn widened(x: &[f32]) -> Vec<f64> {
    x.par_iter().with_min_len(1 << 12).map(|value| f64::from(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let tasks: Vec<usize> = (0..200).collect();
        pool.install(|| {
            for lanes in [1, 3, 64] {
                let mut seen = Vec::new();
                for_each(
                    &tasks,
                    lanes,
                    |task| Ok::<_, Error>(task * 2),
                    |index, result| {
                        assert_eq!(result, index * 2);
                        seen.push(index);
                        Ok(())
                    },
                )
                .unwrap();
                assert_eq!(seen, tasks);
                let failing = |task: &usize| if *task == 50 { Err(Error::NoSpread) } else { Ok(()) };
                let mut taken = 0;
                let outcome = for_each(&tasks, lanes, failing, |_, ()| {
                    taken += 1;
                    Ok(())
                });
                assert!(matches!(outcome, Err(Error::NoSpread)));
                assert!(taken <= 50);
            }
        });
    }

    #[test]
    fn lanes_use_the_instructions_of_the_pool_they_are_asked_for_in() {
        for isa in Isa::available() {
            let work = |_: &()| Ok::<_, Error>(Isa::current());
            isa.pool(3).unwrap().install(|| {
                for_each(&[(), (), ()], 2, work, |_, used| {
                    assert_eq!(used, isa);
                    Ok(())
                })
                .unwrap();
            });
        }
    }

    #[test]
    fn threads_are_shared_out() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        pool.install(|| {
            let mut shares = Vec::new();
            let work = |_: &()| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok::<_, Error>(rayon::current_num_threads())
            };
            for_each(&[(), ()], 8, work, |_, share| {
                shares.push(share);
                Ok(())
            })
            .unwrap();
            shares.sort_unstable();
            assert_eq!(shares, [2, 3]);
        });
    }
}
