//! Mode `Webhook`: another server is asked what somebody may do, and its answers are remembered for a while.

use super::{Attributes, Authorizer, Decision, Verdict};
use crate::UserInfo;
use crate::webhook::Backend;
use api::{Value, json};
use expressions::{Activation, Env, Program, Type, Val};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the conditions of one request may cost.
const BUDGET: u64 = 1_000_000;
/// Answers that are remembered.
const REMEMBERED: usize = 8192;

/// Where to ask, and what to make of the answers.
#[derive(Clone, Debug)]
pub struct Options {
    pub config_file: PathBuf,
    /// Of SubjectAccessReview: `v1` or `v1beta1`
    pub version: String,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
    /// For one question with all its attempts.
    pub timeout: Duration,
    /// A server that cannot be asked is one that denies.
    pub fail_closed: bool,
    /// Expressions over `request` that must all hold for a request to be asked about.
    pub conditions: Vec<String>,
}

/// Asks by SubjectAccessReview.
pub struct Webhook {
    backend: Backend,
    options: Options,
    conditions: Vec<Program>,
    remembered: Mutex<HashMap<String, (Instant, Verdict)>>,
}

impl Webhook {
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        if !matches!(options.version.as_str(), "v1" | "v1beta1") {
            anyhow::bail!("unsupported authorization webhook version {:?}", options.version);
        }
        Self::new(Backend::open(&options.config_file)?, options.clone())
    }

    fn new(backend: Backend, options: Options) -> anyhow::Result<Self> {
        let compile = |text: &String| {
            let program = Program::compile(text, &Env::new().with("request", Type::Dyn));
            program.map_err(|e| anyhow::anyhow!("matchConditions: {text:?}: {e}"))
        };
        let conditions = options.conditions.iter().map(compile).collect::<anyhow::Result<_>>()?;
        Ok(Webhook { backend, options, conditions, remembered: Mutex::default() })
    }

    /// Whether a request is one to ask about. One condition that does not hold counts more than another that cannot
    /// be evaluated.
    fn matches(&self, a: &Attributes<'_>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let request = whole(a);
        let mut activation = Activation::new();
        activation.set("request", Val::json(&request));
        let mut failed = None;
        for condition in &self.conditions {
            match condition.evaluate(&activation, BUDGET).0 {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => failed = Some("a match condition gives no bool".to_owned()),
                Err(e) => failed = Some(e.to_string()),
            }
        }
        failed.map_or(Ok(true), Err)
    }

    fn known(&self, question: &str) -> Option<Verdict> {
        let remembered = self.remembered.lock();
        remembered.get(question).filter(|(until, _)| *until > Instant::now()).map(|(_, v)| v.clone())
    }

    fn remember(&self, question: String, verdict: &Verdict) {
        let ttl = if verdict.allowed() { self.options.authorized_ttl } else { self.options.unauthorized_ttl };
        // Answers to endless questions are not worth keeping.
        if ttl.is_zero() || question.len() > 10_000 {
            return;
        }
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED {
            remembered.retain(|_, (until, _)| *until > now);
        }
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(question, (now + ttl, verdict.clone()));
    }

    fn failed(&self, why: String) -> Verdict {
        let decision = if self.options.fail_closed { Decision::Deny } else { Decision::NoOpinion };
        Verdict { decision, reason: "".into(), error: Some(why) }
    }
}

#[async_trait::async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
        match self.matches(a) {
            Ok(true) => {}
            Ok(false) => return Verdict::no_opinion(""),
            Err(why) => return self.failed(why),
        }
        let spec = spec(a);
        let question = spec.to_string();
        if let Some(verdict) = self.known(&question) {
            return verdict;
        }
        let review = json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.options.version),
            "metadata": {"creationTimestamp": null},
            "spec": if self.options.version == "v1beta1" { old(spec) } else { spec },
            "status": {"allowed": false},
        });
        let answer = match self.backend.post(&review, self.options.timeout).await {
            Ok(answer) => answer,
            Err(why) => {
                tracing::warn!(error = why, "Failed to make webhook authorizer request");
                return self.failed(why);
            }
        };
        let verdict = verdict(&answer["status"]);
        self.remember(question, &verdict);
        verdict
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Option<super::Rules> {
        let errors = vec!["webhook authorizer does not support user rule resolution".to_owned()];
        Some(super::Rules { incomplete: true, errors, ..Default::default() })
    }
}

/// What conditions look at: every field is there, as in a typed object.
fn whole(a: &Attributes<'_>) -> Value {
    let mut request = json!({
        "user": a.user.name, "groups": a.user.groups, "uid": a.user.uid, "extra": a.user.extra,
    });
    if a.resource_request {
        request["resourceAttributes"] = json!({
            "namespace": a.namespace, "verb": a.verb, "group": a.group, "version": a.version,
            "resource": a.resource, "subresource": a.subresource, "name": a.name,
        });
    } else {
        request["nonResourceAttributes"] = json!({"path": a.path, "verb": a.verb});
    }
    request
}

fn verdict(status: &Value) -> Verdict {
    let decision = match (status["denied"] == true, status["allowed"] == true) {
        (true, true) => {
            return Verdict {
                decision: Decision::Deny,
                reason: "".into(),
                error: Some("webhook subject access review returned both allow and deny response".to_owned()),
            };
        }
        (true, false) => Decision::Deny,
        (false, true) => Decision::Allow,
        (false, false) => Decision::NoOpinion,
    };
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let error = Some(text("evaluationError")).filter(|e| !e.is_empty());
    Verdict { decision, reason: text("reason").into(), error }
}

fn spec(a: &Attributes<'_>) -> Value {
    let user = a.user;
    let mut spec = json!({"user": user.name});
    let mut put = |key: &str, v: Value| spec[key] = v;
    if !user.uid.is_empty() {
        put("uid", user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        put("groups", user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        put("extra", json!(user.extra));
    }
    if !a.resource_request {
        put("nonResourceAttributes", json!({"path": a.path, "verb": a.verb}));
        return spec;
    }
    let mut about = json!({});
    for (key, text) in [
        ("namespace", a.namespace),
        ("verb", a.verb),
        ("group", a.group),
        ("version", a.version),
        ("resource", a.resource),
        ("subresource", a.subresource),
        ("name", a.name),
    ] {
        if !text.is_empty() {
            about[key] = text.into();
        }
    }
    if !a.field_selector.is_empty() {
        let of = |(key, value): &(&str, &str)| json!({"key": key, "operator": "In", "values": [value]});
        let requirements: Vec<Value> = a.field_selector.iter().map(of).collect();
        about["fieldSelector"] = json!({"requirements": requirements});
    }
    put("resourceAttributes", about);
    spec
}

/// The older version has another name for groups.
fn old(mut spec: Value) -> Value {
    if let Some(groups) = spec.as_object_mut().and_then(|s| s.remove("groups")) {
        spec["group"] = groups;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::tests::fake;

    #[tokio::test]
    async fn another_server_decides() {
        let fake = fake(|n, review| {
            assert_eq!(review["apiVersion"], "authorization.k8s.io/v1beta1");
            assert_eq!(review["spec"]["group"], json!(["devs"]));
            let answer = match (review["spec"]["resourceAttributes"]["verb"].as_str(), n) {
                (Some("get"), _) => json!({"allowed": true, "reason": "because"}),
                (Some("delete"), _) => json!({"allowed": false, "denied": true}),
                _ => json!({"allowed": false, "evaluationError": "?"}),
            };
            (200, json!({"status": answer}))
        })
        .await;
        let options = Options {
            config_file: PathBuf::new(),
            version: "v1beta1".into(),
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            fail_closed: true,
            conditions: vec![
                "!has(request.resourceAttributes) || request.resourceAttributes.namespace != 'own'".into(),
            ],
        };
        let webhook = Webhook::new(fake.backend, options).unwrap();
        let user = UserInfo { name: "jane".into(), groups: vec!["devs".into()], ..Default::default() };
        let ask = async |verb: &str| webhook.authorize(&Attributes::resource(&user, verb, "", "pods")).await;
        for (verb, decision) in [
            ("get", Decision::Allow),
            ("get", Decision::Allow),
            ("delete", Decision::Deny),
            ("list", Decision::NoOpinion),
        ] {
            assert_eq!(ask(verb).await.decision, decision, "{verb}");
        }
        assert_eq!(fake.asked.lock().len(), 3, "an answer is remembered");
        let own = Attributes::resource(&user, "get", "", "pods").namespace("own");
        assert_eq!(webhook.authorize(&own).await.decision, Decision::NoOpinion);
        assert_eq!(fake.asked.lock().len(), 3, "a condition says that nobody is asked");
    }

    #[tokio::test]
    async fn who_cannot_be_asked_denies_where_it_is_told_to() {
        for (fail_closed, decision) in [(true, Decision::Deny), (false, Decision::NoOpinion)] {
            let fake = fake(|_, _| (500, json!({}))).await;
            let options = Options {
                config_file: PathBuf::new(),
                version: "v1".into(),
                authorized_ttl: Duration::ZERO,
                unauthorized_ttl: Duration::ZERO,
                timeout: Duration::from_secs(10),
                fail_closed,
                conditions: Vec::new(),
            };
            let webhook = Webhook::new(fake.backend, options).unwrap();
            let user = UserInfo { name: "jane".into(), ..Default::default() };
            let verdict = webhook.authorize(&Attributes::path(&user, "get", "/x")).await;
            assert_eq!(verdict.decision, decision);
            assert!(verdict.error.is_some());
        }
    }
}
