//! `batch/v1`.

mod cron;
mod cronjob;
mod job;
mod job_validation;

use super::Strategy;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&cronjob::CronJob, &job::Job];
