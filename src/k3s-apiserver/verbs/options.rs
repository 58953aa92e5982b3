//! The query parameters and bodies that steer verbs: ListOptions, DeleteOptions, write options.

use apimachinery::decode::FieldValidation;
use apimachinery::field::FieldErrors;
use apimachinery::gotext::quote;
use apimachinery::status::Status;
use serde_json::Value;

use crate::request::Query;

/// `resourceVersionMatch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Unset,
    Exact,
    NotOlderThan,
}

/// What LIST and WATCH are asked.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub limit: usize,
    pub continue_token: String,
    /// None: not given. `0` is any.
    pub revision: Option<i64>,
    pub matching: Match,
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
    pub timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks the parameters of LIST (`watch` false) or WATCH.
    pub fn read(query: &Query, watch: bool) -> Result<Self, Status> {
        let limit = int(query, "limit")?.unwrap_or(0);
        let timeout = int(query, "timeoutSeconds")?.unwrap_or(0);
        let version = query.text("resourceVersion");
        let options = Self {
            label_selector: query.text("labelSelector").to_owned(),
            field_selector: query.text("fieldSelector").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            revision: None,
            matching: match query.text("resourceVersionMatch") {
                "Exact" => Match::Exact,
                "NotOlderThan" => Match::NotOlderThan,
                _ => Match::Unset,
            },
            send_initial_events: query
                .get("sendInitialEvents")
                .map(|_| query.flag("sendInitialEvents")),
            bookmarks: query.flag("allowWatchBookmarks"),
            timeout_seconds: u64::try_from(timeout).ok().filter(|seconds| *seconds > 0),
        };
        let mut errors = FieldErrors::default();
        let matching = query.text("resourceVersionMatch");
        if watch {
            check_watch(&options, matching, &mut errors);
        } else {
            check_list(&options, matching, version, &mut errors);
        }
        if !errors.is_empty() {
            return Err(invalid("ListOptions", &errors));
        }
        if !watch && !options.continue_token.is_empty() && !version.is_empty() && version != "0" {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let revision = parse_revision(version).map_err(|message| match watch {
            true => Status::plain(message),
            false => Status::bad_request(format!("invalid resource version: {message}")),
        })?;
        Ok(Self { revision, ..options })
    }
}

fn check_list(options: &ListOptions, matching: &str, version: &str, errors: &mut FieldErrors) {
    if !matching.is_empty() {
        if version.is_empty() {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            );
        }
        if !options.continue_token.is_empty() {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
        if options.matching == Match::Unset {
            errors.not_supported("resourceVersionMatch", matching, &["Exact", "NotOlderThan", ""]);
        }
        if options.matching == Match::Exact && version == "0" {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            );
        }
    }
    if options.send_initial_events.is_some() {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
}

fn check_watch(options: &ListOptions, matching: &str, errors: &mut FieldErrors) {
    if options.send_initial_events.is_some() && options.matching != Match::NotOlderThan {
        errors.forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if !matching.is_empty() {
        if options.send_initial_events.is_none() {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if options.matching != Match::NotOlderThan {
            errors.not_supported("resourceVersionMatch", matching, &["NotOlderThan"]);
        }
        if !options.continue_token.is_empty() {
            errors.forbidden(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden when continue is provided",
            );
        }
    }
}

/// A resourceVersion, `None` when empty; the text of the refusal otherwise.
pub fn parse_revision(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(revision) => Ok(Some(i64::try_from(revision).unwrap_or(i64::MAX))),
        Err(_) => {
            let shown = quote(text);
            Err(format!(
                "resourceVersion: Invalid value: {shown}: strconv.ParseUint: parsing {shown}: \
                 invalid syntax"
            ))
        }
    }
}

fn int(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            let shown = quote(text);
            Status::bad_request(format!("strconv.ParseInt: parsing {shown}: invalid syntax"))
        }),
    }
}

fn invalid(kind: &str, errors: &FieldErrors) -> Status {
    Status::invalid("meta.k8s.io", kind, "", errors)
}

/// The parameters of every write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub validation: FieldValidation,
    /// Only for apply.
    pub force: bool,
}

/// Whether a patch is a configuration to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Plain,
    Apply,
}

impl WriteOptions {
    /// Reads and checks; `kind` names the options type in refusals.
    pub fn read(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::read_after(query, kind, FieldErrors::default())
    }

    /// The parameters of a patch: `force` is for apply alone, and apply needs a manager.
    pub fn read_patch(query: &Query, patch: Patch) -> Result<Self, Status> {
        let mut errors = FieldErrors::default();
        if patch == Patch::Apply && query.text("fieldManager").is_empty() {
            errors.required("fieldManager", "is required for apply patch");
        }
        if patch == Patch::Plain && query.get("force").is_some() {
            errors.forbidden("force", "may not be specified for non-apply patch");
        }
        Self::read_after(query, "PatchOptions", errors)
    }

    fn read_after(query: &Query, kind: &str, mut errors: FieldErrors) -> Result<Self, Status> {
        let manager = query.text("fieldManager");
        if manager.len() > 128 {
            errors.too_long("fieldManager", 128);
        }
        for (at, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
            let code = u32::from(c);
            let why = format!("invalid character U+{code:04X} (at position {at})");
            errors.invalid("fieldManager", manager, why);
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        check_dry_run(&dry_run, &mut errors);
        let validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(invalid(kind, &errors));
        }
        Ok(Self {
            dry_run: !dry_run.is_empty(),
            field_manager: manager.to_owned(),
            validation,
            force: query.flag("force"),
        })
    }
}

/// Letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format(c))
}

/// Characters that steer how others are shown.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}')
}

fn check_dry_run(values: &[&str], errors: &mut FieldErrors) {
    if values.iter().any(|value| *value != "All") {
        let shown = Value::from(values.to_vec());
        errors.not_supported("dryRun", shown, &["All"]);
    }
}

/// `propagationPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// How a DELETE is asked.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    /// `orphanDependents` of old clients.
    pub orphan: Option<bool>,
}

impl DeleteOptions {
    /// Reads the body, or the query when there is none.
    pub fn read(query: &Query, body: Option<&Value>) -> Result<Self, Status> {
        let (null, nothing) = (Value::Null, Query::default());
        // A body says it all.
        let query = if body.is_some() { &nothing } else { query };
        let body = body.unwrap_or(&null);
        let mut errors = FieldErrors::default();
        let mut options = Self::default();
        let from_body = |name: &str| body.get(name).filter(|value| !value.is_null());
        let policy: String = match from_body("propagationPolicy").and_then(Value::as_str) {
            Some(policy) => policy.to_owned(),
            None => query.text("propagationPolicy").to_owned(),
        };
        options.orphan = from_body("orphanDependents")
            .and_then(Value::as_bool)
            .or_else(|| query.get("orphanDependents").map(|_| query.flag("orphanDependents")));
        if options.orphan.is_some() && !policy.is_empty() {
            errors.invalid(
                "propagationPolicy",
                policy.as_str(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        options.propagation = match policy.as_str() {
            "" => None,
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            other => {
                errors.not_supported(
                    "propagationPolicy",
                    other,
                    &["Foreground", "Background", "Orphan", "nil"],
                );
                None
            }
        };
        options.grace = match from_body("gracePeriodSeconds").and_then(Value::as_i64) {
            Some(seconds) => Some(seconds),
            None => int(query, "gracePeriodSeconds")?,
        };
        let preconditions = from_body("preconditions");
        let text = |name: &str| {
            preconditions.and_then(|set| set.get(name)).and_then(Value::as_str).map(str::to_owned)
        };
        options.uid = text("uid");
        options.resource_version = text("resourceVersion");
        let mut dry: Vec<&str> = query.all("dryRun").collect();
        dry.extend(body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str));
        check_dry_run(&dry, &mut errors);
        options.dry_run = !dry.is_empty();
        if errors.is_empty() { Ok(options) } else { Err(invalid("DeleteOptions", &errors)) }
    }
}
