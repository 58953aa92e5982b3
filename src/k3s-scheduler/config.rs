//! `--config`: KubeSchedulerConfiguration v1, read strictly and turned into profiles.
//!
//! Invariant: what is accepted has an effect or is one of the settings of client and process that
//! have nothing to tune here; everything else is refused by name.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    extender::{self, Extender},
    plugins::PLUGINS,
    profile::{self, PluginArgs, Profile, SpreadDefaults, Strategy},
    types::{NodeAffinity, SpreadConstraint},
};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Scores of shapes go to 10, those of plugins to 100.
const SHAPE_SCORE_MAX: i64 = 10;

/// What the scheduler runs with.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) profiles: Vec<Arc<Profile>>,
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) extenders: Vec<Extender>,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            profiles: vec![Arc::new(Profile::default())],
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            extenders: Vec::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Wire {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    profiles: Vec<ProfileWire>,
    extenders: Vec<extender::Settings>,
    #[serde(rename = "parallelism")]
    _parallelism: Value,
    #[serde(rename = "leaderElection")]
    _leader_election: Value,
    #[serde(rename = "clientConnection")]
    _client_connection: Value,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Value,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Value,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ProfileWire {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    plugins: profile::Points,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl Configuration {
    /// Reads a configuration file. Errors name what is wrong where.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let value = apimachinery::yaml::parse(text)?.value;
        let wire: Wire =
            serde_json::from_value(value).map_err(|err| format!("strict decoding error: {err}"))?;
        if wire.api_version != API_VERSION || wire.kind != KIND {
            return Err(format!(
                "no kind {:?} is registered for version {:?}; wanted {KIND} of {API_VERSION}",
                wire.kind, wire.api_version
            ));
        }
        for (at, extender) in wire.extenders.iter().enumerate() {
            extender.check(at)?;
        }
        let ignored: Vec<String> =
            wire.extenders.iter().flat_map(|it| it.ignored().map(str::to_owned)).collect();
        let default = Configuration::default();
        let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
        let initial = seconds(wire.pod_initial_backoff_seconds, default.backoff_initial);
        let most = seconds(wire.pod_max_backoff_seconds, default.backoff_max);
        if initial.is_zero() {
            return Err("podInitialBackoffSeconds: Invalid value: 0: must be greater than 0".into());
        }
        if most < initial {
            return Err(format!(
                "podMaxBackoffSeconds: Invalid value: {}: must be greater than or equal to PodInitialBackoffSeconds",
                most.as_secs()
            ));
        }
        let common = percentage(wire.percentage_of_nodes_to_score, "")?;
        let mut profiles = Vec::new();
        let mut names = BTreeSet::new();
        for (at, it) in wire.profiles.into_iter().enumerate() {
            let path = format!("profiles[{at}]");
            let mut profile = it.read(&path, common)?;
            profile.args.ignored_resources.extend(ignored.iter().cloned());
            if profile.scheduler_name.is_empty() {
                return Err(format!("{path}.schedulerName: Required value"));
            }
            if !names.insert(profile.scheduler_name.clone()) {
                let name = &profile.scheduler_name;
                return Err(format!("{path}.schedulerName: Duplicate value: {name:?}"));
            }
            profiles.push(Arc::new(profile));
        }
        if profiles.is_empty() {
            let mut profile = Profile { percentage: common, ..Profile::default() };
            profile.args.ignored_resources.extend(ignored);
            profiles.push(Arc::new(profile));
        }
        let extenders = wire.extenders.into_iter().map(extender::Settings::connect);
        Ok(Configuration {
            profiles,
            backoff_initial: initial,
            backoff_max: most,
            extenders: extenders.collect::<Result<_, _>>()?,
        })
    }
}

/// `None` and 0 mean that the scheduler chooses.
fn percentage(given: Option<i64>, path: &str) -> Result<Option<usize>, String> {
    match given {
        None | Some(0) => Ok(None),
        Some(percent @ 1..=100) => Ok(usize::try_from(percent).ok()),
        Some(other) => Err(format!(
            "{path}percentageOfNodesToScore: Invalid value: {other}: not in valid range [0-100]"
        )),
    }
}

impl ProfileWire {
    fn read(self, path: &str, common: Option<usize>) -> Result<Profile, String> {
        let name = self.scheduler_name.unwrap_or_else(|| profile::DEFAULT_NAME.into());
        let own = percentage(self.percentage_of_nodes_to_score, &format!("{path}."))?;
        let mut args = PluginArgs::default();
        let mut seen = BTreeSet::new();
        for (at, it) in self.plugin_config.into_iter().enumerate() {
            let path = format!("{path}.pluginConfig[{at}]");
            if !seen.insert(it.name.clone()) {
                return Err(format!("{path}: Duplicate value: {:?}", it.name));
            }
            read_args(&mut args, &it.name, it.args)
                .map_err(|err| format!("{path}.args ({}): {err}", it.name))?;
        }
        Profile::compile(name, &self.plugins, args, own.or(common))
            .map_err(|err| format!("{path}.plugins: {err}"))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<usize>,
    min_candidate_nodes_absolute: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct BalancedArgs {
    resources: Vec<Weight>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct FitArgs {
    ignored_resources: BTreeSet<String>,
    ignored_resource_groups: BTreeSet<String>,
    scoring_strategy: Option<StrategyWire>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct StrategyWire {
    #[serde(rename = "type")]
    kind: String,
    resources: Vec<Weight>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ratio {
    shape: Vec<ShapePoint>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ShapePoint {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Weight {
    name: String,
    weight: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct SpreadArgs {
    default_constraints: Vec<SpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct VolumeBindingArgs {
    bind_timeout_seconds: Option<u64>,
}

fn read_args(args: &mut PluginArgs, name: &str, value: Value) -> Result<(), String> {
    match name {
        "DefaultPreemption" => {
            let it: PreemptionArgs = typed(name, value)?;
            args.candidates_percent =
                it.min_candidate_nodes_percentage.unwrap_or(args.candidates_percent);
            args.candidates_min = it.min_candidate_nodes_absolute.unwrap_or(args.candidates_min);
            if args.candidates_percent > 100 {
                return Err("minCandidateNodesPercentage: not in valid range [0, 100]".into());
            }
            if args.candidates_percent == 0 && args.candidates_min == 0 {
                return Err("minCandidateNodesPercentage and minCandidateNodesAbsolute: cannot both be zero".into());
            }
        }
        "InterPodAffinity" => {
            let it: InterPodAffinityArgs = typed(name, value)?;
            args.hard_affinity_weight =
                it.hard_pod_affinity_weight.unwrap_or(args.hard_affinity_weight);
            args.ignores_preferences_of_placed = it.ignore_preferred_terms_of_existing_pods;
            if !(0..=100).contains(&args.hard_affinity_weight) {
                return Err("hardPodAffinityWeight: not in valid range [0, 100]".into());
            }
        }
        "NodeAffinity" => {
            args.added_affinity = typed::<NodeAffinityArgs>(name, value)?.added_affinity;
        }
        "NodeResourcesBalancedAllocation" => {
            let it: BalancedArgs = typed(name, value)?;
            if it.resources.iter().any(|it| it.weight != 1) {
                return Err("resources: resource weight not in valid range 1".into());
            }
            if !it.resources.is_empty() {
                args.balanced = it.resources.into_iter().map(|it| it.name).collect();
            }
        }
        "NodeResourcesFit" => read_fit(args, typed(name, value)?)?,
        "PodTopologySpread" => {
            let it: SpreadArgs = typed(name, value)?;
            args.spread = read_spread(it)?;
        }
        "VolumeBinding" => {
            let it: VolumeBindingArgs = typed(name, value)?;
            if let Some(seconds) = it.bind_timeout_seconds {
                args.bind_timeout = Duration::from_secs(seconds);
            }
        }
        other if PLUGINS.iter().any(|it| it.name == other) => {
            return Err("this plugin takes no arguments".into());
        }
        other => return Err(format!("PluginName {other:?} does not exist")),
    }
    Ok(())
}

/// Arguments without their type, which must be the plugin's.
fn typed<T: DeserializeOwned + Default>(name: &str, mut value: Value) -> Result<T, String> {
    if let Some(map) = value.as_object_mut() {
        let kind = map.remove("kind");
        if kind.is_some_and(|it| it != format!("{name}Args")) {
            return Err(format!("kind: must be {name}Args"));
        }
        if map.remove("apiVersion").is_some_and(|it| it != API_VERSION) {
            return Err(format!("apiVersion: must be {API_VERSION}"));
        }
    }
    Ok(Option::<T>::deserialize(value).map_err(|err| err.to_string())?.unwrap_or_default())
}

fn read_fit(args: &mut PluginArgs, fit: FitArgs) -> Result<(), String> {
    args.ignored_resources = fit.ignored_resources;
    args.ignored_groups = fit.ignored_resource_groups;
    let Some(strategy) = fit.scoring_strategy else { return Ok(()) };
    for it in &strategy.resources {
        if !(1..=100).contains(&it.weight) {
            return Err(format!(
                "scoringStrategy.resources[{}]: resource weight not in valid range [1, 100]",
                it.name
            ));
        }
    }
    if !strategy.resources.is_empty() {
        args.scored = strategy.resources.into_iter().map(|it| (it.name, it.weight)).collect();
    }
    args.strategy = match strategy.kind.as_str() {
        "" | "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let shape = strategy.requested_to_capacity_ratio.unwrap_or_default().shape;
            let path = "scoringStrategy.requestedToCapacityRatio.shape";
            if shape.is_empty() {
                return Err(format!(
                    "{path}: Required value: at least one point must be specified"
                ));
            }
            let rises = shape.windows(2).all(|it| it[0].utilization < it[1].utilization);
            let valid = shape.iter().all(|it| {
                (0..=100).contains(&it.utilization) && (0..=SHAPE_SCORE_MAX).contains(&it.score)
            });
            if !rises || !valid {
                return Err(format!(
                    "{path}: utilization values must be sorted in increasing order within [0, 100], scores within [0, {SHAPE_SCORE_MAX}]"
                ));
            }
            let scale = crate::framework::SCORE_MAX / SHAPE_SCORE_MAX;
            Strategy::Shape(shape.iter().map(|it| (it.utilization, it.score * scale)).collect())
        }
        other => return Err(format!("scoringStrategy.type: Unsupported value: {other:?}")),
    };
    Ok(())
}

fn read_spread(it: SpreadArgs) -> Result<SpreadDefaults, String> {
    match it.defaulting_type.as_deref() {
        None | Some("System") if it.default_constraints.is_empty() => Ok(SpreadDefaults::System),
        Some("System") => {
            Err("defaultConstraints: must be empty when defaultingType is System".into())
        }
        None | Some("List") => {
            for constraint in &it.default_constraints {
                if constraint.label_selector.is_some() {
                    return Err("defaultConstraints: constraint must not define a selector, as they deduced for each pod".into());
                }
                if constraint.max_skew <= 0 || constraint.topology_key.is_empty() {
                    return Err("defaultConstraints: maxSkew must be greater than zero and topologyKey not empty".into());
                }
            }
            Ok(SpreadDefaults::List(it.default_constraints))
        }
        Some(other) => Err(format!("defaultingType: Unsupported value: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<Configuration, String> {
        Configuration::parse(format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}").as_bytes())
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, want: &str| {
            let found = read(text).unwrap_err();
            assert!(found.contains(want), "{text}: {found}");
        };
        check("colour: red", "unknown field `colour`");
        check("extenders: [{}]", "extenders[0].urlPrefix: Required value");
        check(
            "extenders: [{urlPrefix: 'http://x', preemptVerb: p}]",
            "extenders[0].preemptVerb: extenders have no say in preemption yet",
        );
        let weightless = "extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]";
        check(weightless, "extenders[0].weight: Invalid value: 0: must have a positive weight");
        check("percentageOfNodesToScore: 101", "not in valid range [0-100]");
        check("podInitialBackoffSeconds: 11", "podMaxBackoffSeconds: Invalid value: 10");
        check("profiles: [{}, {}]", "profiles[1].schedulerName: Duplicate value");
        check("profiles: [{schedulerName: ''}]", "schedulerName: Required value");
        let plugin = |it: &str| format!("profiles: [{{plugins: {{{it}}}}}]");
        check(&plugin("filter: {enabled: [{name: Mine}]}"), "PluginName \"Mine\" does not exist");
        check(&plugin("bind: {disabled: [{name: '*'}]}"), "at least one bind plugin is needed");
        check(&plugin("queueSort: {disabled: [{name: '*'}]}"), "no queue sort plugin");
        let args = |name: &str, it: &str| {
            format!("profiles: [{{pluginConfig: [{{name: {name}, args: {it}}}]}}]")
        };
        check(&args("Mine", "{}"), "PluginName \"Mine\" does not exist");
        check(&args("NodePorts", "{x: 1}"), "takes no arguments");
        check(&args("NodeAffinity", "{kind: OtherArgs}"), "kind: must be NodeAffinityArgs");
        check(&args("InterPodAffinity", "{hardPodAffinityWeight: 101}"), "not in valid range");
        check(
            &args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio}}"),
            "at least one point",
        );
        check(
            &args(
                "PodTopologySpread",
                "{defaultConstraints: [{maxSkew: 1, topologyKey: z, labelSelector: {}}]}",
            ),
            "must not define a selector",
        );
        let other = Configuration::parse(b"apiVersion: v1\nkind: Pod").unwrap_err();
        assert!(other.contains("no kind \"Pod\""), "{other}");
    }

    #[test]
    fn profiles_carry_what_was_written() {
        let found = read(
            "percentageOfNodesToScore: 30
podMaxBackoffSeconds: 60
leaderElection: {leaderElect: false}
profiles:
- schedulerName: packed
  plugins:
    multiPoint: {disabled: [{name: DefaultPreemption}]}
    score:
      disabled: [{name: '*'}]
      enabled: [{name: NodeResourcesFit, weight: 7}]
    filter: {disabled: [{name: NodePorts}]}
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 3}]}
- schedulerName: default-scheduler
  percentageOfNodesToScore: 100
",
        )
        .unwrap();
        assert_eq!(found.backoff_max.as_secs(), 60);
        let packed = &found.profiles[0];
        assert_eq!(packed.scores.iter().map(|it| it.weight).collect::<Vec<_>>(), [7]);
        assert!(!packed.preempts && !packed.filters.iter().any(|it| it.name == "NodePorts"));
        assert_eq!(packed.args.scored, [("cpu".to_owned(), 3)]);
        assert_eq!(packed.args.strategy, Strategy::MostAllocated);
        assert_eq!((packed.percentage, found.profiles[1].percentage), (Some(30), Some(100)));
        assert!(found.profiles[1].preempts);
    }
}
