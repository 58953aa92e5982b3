//! A profile: which plugins filter and score for pods of one scheduler name, with which weights and
//! arguments. Compiled once from upstream's extension points.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use crate::{
    plugins::{Filter, PLUGINS, Point, Score},
    types::{NodeAffinity, SpreadConstraint},
};

/// The scheduler name of pods that name none.
pub(crate) const DEFAULT_NAME: &str = "default-scheduler";

/// How pods of one scheduler name are placed.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) scheduler_name: String,
    pub(crate) filters: Vec<Filtering>,
    pub(crate) scores: Vec<Scoring>,
    pub(crate) preempts: bool,
    /// How many of the nodes are enough to choose among; `None` to go by the size of the cluster.
    pub(crate) percentage: Option<usize>,
    pub(crate) args: PluginArgs,
}

#[derive(Clone, Debug)]
pub(crate) struct Filtering {
    pub(crate) name: &'static str,
    pub(crate) filter: Filter,
}

#[derive(Clone, Debug)]
pub(crate) struct Scoring {
    pub(crate) score: Score,
    pub(crate) weight: i64,
}

/// The arguments of all plugins.
#[derive(Clone, Debug)]
pub(crate) struct PluginArgs {
    /// Preemption tries out this many nodes, or that share of all.
    pub(crate) candidates_min: usize,
    pub(crate) candidates_percent: usize,
    pub(crate) hard_affinity_weight: i64,
    pub(crate) ignores_preferences_of_placed: bool,
    /// Applies to every pod of the profile beside its own.
    pub(crate) added_affinity: Option<NodeAffinity>,
    pub(crate) strategy: Strategy,
    /// Resources that the strategy weighs.
    pub(crate) scored: Vec<(String, i64)>,
    pub(crate) balanced: Vec<String>,
    pub(crate) ignored_resources: BTreeSet<String>,
    pub(crate) ignored_groups: BTreeSet<String>,
    pub(crate) spread: SpreadDefaults,
    pub(crate) bind_timeout: Duration,
}

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Score at a utilisation in percent, straight lines in between.
    Shape(Vec<(i64, i64)>),
}

/// Spread constraints of pods that have none.
#[derive(Clone, Debug)]
pub(crate) enum SpreadDefaults {
    /// Softly over hosts and zones.
    System,
    List(Vec<SpreadConstraint>),
}

impl Default for PluginArgs {
    fn default() -> Self {
        PluginArgs {
            candidates_min: 100,
            candidates_percent: 10,
            hard_affinity_weight: 1,
            ignores_preferences_of_placed: false,
            added_affinity: None,
            strategy: Strategy::LeastAllocated,
            scored: vec![("cpu".into(), 1), ("memory".into(), 1)],
            balanced: vec!["cpu".into(), "memory".into()],
            ignored_resources: BTreeSet::new(),
            ignored_groups: BTreeSet::new(),
            spread: SpreadDefaults::System,
            bind_timeout: Duration::from_secs(600),
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        let args = PluginArgs::default();
        Profile::compile(DEFAULT_NAME.into(), &Points::default(), args, None)
            .expect("the default plugins are complete")
    }
}

/// `profiles[].plugins`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Points {
    multi_point: PluginSet,
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginSet {
    enabled: Vec<Enabled>,
    disabled: Vec<Enabled>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Enabled {
    name: String,
    weight: i64,
}

impl PluginSet {
    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|it| it.name == name || it.name == "*")
    }

    fn enables(&self, name: &str) -> Option<&Enabled> {
        self.enabled.iter().find(|it| it.name == name)
    }
}

impl Points {
    fn all(&self) -> [&PluginSet; 13] {
        [
            &self.multi_point,
            &self.pre_enqueue,
            &self.queue_sort,
            &self.pre_filter,
            &self.filter,
            &self.post_filter,
            &self.pre_score,
            &self.score,
            &self.reserve,
            &self.permit,
            &self.pre_bind,
            &self.bind,
            &self.post_bind,
        ]
    }

    /// Whether a plugin that the point is for runs there, and with which weight if one is given.
    fn runs(&self, name: &str, point: &PluginSet) -> Option<i64> {
        if let Some(enabled) = point.enables(name) {
            return Some(enabled.weight);
        }
        if point.disables(name) {
            return None;
        }
        match self.multi_point.enables(name) {
            Some(enabled) => Some(enabled.weight),
            None => (!self.multi_point.disables(name)).then_some(0),
        }
    }
}

impl Profile {
    /// Fills the extension points. Errors are upstream's.
    pub(crate) fn compile(
        scheduler_name: String,
        points: &Points,
        args: PluginArgs,
        percentage: Option<usize>,
    ) -> Result<Self, String> {
        for enabled in points.all().into_iter().flat_map(|it| &it.enabled) {
            if !PLUGINS.iter().any(|it| it.name == enabled.name) {
                return Err(format!("PluginName {:?} does not exist", enabled.name));
            }
        }
        let at = |point: Point, set: &PluginSet| {
            let mut plugins = PLUGINS.iter().filter(move |it| it.point == Some(point));
            plugins.any(|it| points.runs(it.name, set).is_some())
        };
        if !at(Point::QueueSort, &points.queue_sort) {
            return Err(format!("no queue sort plugin is enabled for profile {scheduler_name:?}"));
        }
        if !at(Point::Bind, &points.bind) {
            return Err(format!(
                "at least one bind plugin is needed for profile with scheduler name {scheduler_name:?}"
            ));
        }
        if !at(Point::PreEnqueue, &points.pre_enqueue) {
            return Err("SchedulingGates cannot be disabled by this version".into());
        }
        let filters = PLUGINS.iter().filter_map(|it| {
            let filter = it.filter?;
            points.runs(it.name, &points.filter)?;
            Some(Filtering { name: it.name, filter })
        });
        let scores = PLUGINS.iter().filter_map(|it| {
            let score = it.score?;
            let weight = points.runs(it.name, &points.score)?;
            let weight = if weight == 0 { it.weight } else { weight };
            Some(Scoring { score, weight })
        });
        Ok(Profile {
            filters: filters.collect(),
            scores: scores.collect(),
            preempts: at(Point::PostFilter, &points.post_filter),
            scheduler_name,
            percentage,
            args,
        })
    }

    pub(crate) fn filters_by(&self, name: &str) -> bool {
        self.filters.iter().any(|it| it.name == name)
    }
}
