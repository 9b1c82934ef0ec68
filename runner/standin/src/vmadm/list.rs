//! `list`, `lookup`, `get`, `info`: what there is.

use serde_json::{Map, Value};

use super::power::plain;
use super::view::View;
use super::{Call, Done, Failure, Outcome};
use crate::condition::Condition;
use crate::zone::Zone;

/// Fields of `list` and widths of their columns.
const FIELDS: [(&str, usize); 40] = [
    ("alias", 10),
    ("autoboot", 8),
    ("billing_id", 36),
    ("boot_timestamp", 24),
    ("brand", 14),
    ("cpu_cap", 7),
    ("cpu_shares", 9),
    ("cpu_type", 8),
    ("create_timestamp", 24),
    ("dataset_uuid", 36),
    ("dns_domain", 32),
    ("exit_status", 4),
    ("exit_timestamp", 24),
    ("firewall_enabled", 9),
    ("hostname", 32),
    ("image_uuid", 36),
    ("last_modified", 24),
    ("limit_priv", 10),
    ("max_locked_memory", 10),
    ("max_lwps", 8),
    ("max_msg_ids", 10),
    ("max_physical_memory", 10),
    ("max_sem_ids", 10),
    ("max_shm_ids", 10),
    ("max_shm_memory", 10),
    ("max_swap", 7),
    ("owner_uuid", 36),
    ("pid", 6),
    ("quota", 5),
    ("ram", 7),
    ("server_uuid", 36),
    ("state", 16),
    ("tmpfs", 5),
    ("type", 4),
    ("uuid", 36),
    ("zfs_io_priority", 9),
    ("zone_state", 10),
    ("zoneid", 6),
    ("zonepath", 40),
    ("zpool", 8),
];

fn width(field: &str) -> Option<usize> {
    FIELDS.iter().find(|(name, _)| *name == field).map(|(_, width)| *width)
}

/// Keys by which one may filter, beyond the fields.
fn is_key(key: &str) -> bool {
    let maps = ["tags.", "customer_metadata.", "internal_metadata."];
    width(key).is_some()
        || maps.iter().any(|map| key.starts_with(map))
        || key.starts_with("nics.")
        || key.starts_with("disks.")
}

/// A condition of `list` and `lookup`.
#[derive(Debug)]
struct Filter {
    key: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(String),
    Pattern(Pattern),
}

/// The part of regular expressions that people use in filters: anchors, `.`
/// with or without `*`, and plain characters; case is ignored.
#[derive(Debug)]
struct Pattern {
    start: bool,
    end: bool,
    parts: Vec<(Option<char>, bool)>,
}

impl Pattern {
    fn parse(text: &str) -> Pattern {
        let lower = text.to_lowercase();
        let (start, rest) = match lower.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let (end, rest) = match rest.strip_suffix('$') {
            Some(rest) if !rest.ends_with('\\') => (true, rest),
            _ => (false, rest),
        };
        let mut parts: Vec<(Option<char>, bool)> = Vec::new();
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            match c {
                '.' => parts.push((None, false)),
                '*' => {
                    if let Some(last) = parts.last_mut() {
                        last.1 = true;
                    }
                }
                '\\' => parts.push((chars.next(), false)),
                c => parts.push((Some(c), false)),
            }
        }
        Pattern { start, end, parts }
    }

    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.to_lowercase().chars().collect();
        let last = if self.start { 0 } else { text.len() };
        (0..=last).any(|from| self.match_at(&text, from))
    }

    /// Steps through the parts with the set of places where one may be, so
    /// that no pattern takes more than text times parts steps.
    fn match_at(&self, text: &[char], from: usize) -> bool {
        let mut places = vec![from];
        for (wanted, many) in &self.parts {
            let fits =
                |at: usize| wanted.is_none_or(|wanted| text[at] == wanted);
            let mut next = Vec::new();
            for place in places {
                if !many {
                    if place < text.len() && fits(place) {
                        next.push(place + 1);
                    }
                    continue;
                }
                let mut at = place;
                next.push(at);
                while at < text.len() && fits(at) {
                    at += 1;
                    next.push(at);
                }
            }
            next.sort_unstable();
            next.dedup();
            places = next;
        }
        places.iter().any(|place| !self.end || *place == text.len())
    }
}

fn kind(view: &View) -> &'static str {
    match view.object.get("brand").and_then(Value::as_str) {
        Some("lx") => "LX",
        Some("kvm") => "KVM",
        Some("bhyve") => "BHYV",
        _ => "OS",
    }
}

/// The object with the fields that only lists have.
fn listed(view: &View) -> Map<String, Value> {
    let mut object = view.object.clone();
    object.insert("type".to_owned(), kind(view).into());
    let ram = object.get("max_physical_memory").cloned();
    object.insert("ram".to_owned(), ram.unwrap_or(Value::Null));
    object
}

/// All values under a dotted key; `*` stands for each element.
fn values<'a>(object: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    for part in key.split('.') {
        found = found
            .into_iter()
            .flat_map(|value| match (value, part) {
                (Value::Array(all), "*") => all.iter().collect(),
                (Value::Array(all), _) => part
                    .parse()
                    .ok()
                    .and_then(|at: usize| all.get(at))
                    .into_iter()
                    .collect(),
                (Value::Object(map), _) => map.get(part).into_iter().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    found
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value in a table: false counts as missing, as it does in the original.
fn cell(object: &Map<String, Value>, field: &str) -> String {
    match object.get(field) {
        None | Some(Value::Bool(false)) => String::new(),
        Some(value) => shown(value),
    }
}

impl Filter {
    fn holds(&self, object: &Map<String, Value>) -> bool {
        let object = Value::Object(object.clone());
        values(&object, &self.key).into_iter().any(|value| match &self.test {
            Test::Equal(wanted) => shown(value) == *wanted,
            Test::Pattern(pattern) => pattern.matches(&shown(value)),
        })
    }
}

/// The options that `list` and `lookup` share.
#[derive(Debug, Default)]
struct Options {
    parsable: bool,
    no_header: bool,
    json: bool,
    unique: bool,
    fields: Option<Vec<String>>,
    sort: Option<Vec<String>>,
    filters: Vec<Filter>,
}

fn options(call: &Call<'_>) -> Result<Options, Failure> {
    let mut options = Options::default();
    let mut args = call.args.iter();
    let split = |text: Option<&String>| -> Result<Vec<String>, Failure> {
        let text = text.ok_or(Failure::Usage(None))?;
        Ok(text.split(',').map(str::to_owned).collect())
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-p" => options.parsable = true,
            "-H" => options.no_header = true,
            "-pH" | "-Hp" => {
                options.parsable = true;
                options.no_header = true;
            }
            "-j" => options.json = true,
            "-1" => options.unique = true,
            "-1j" | "-j1" => {
                options.json = true;
                options.unique = true;
            }
            "-o" => options.fields = Some(split(args.next())?),
            "-s" => options.sort = Some(split(args.next())?),
            filter => options.filters.push(parse_filter(call, filter)?),
        }
    }
    Ok(options)
}

fn parse_filter(call: &Call<'_>, text: &str) -> Result<Filter, Failure> {
    let word = if call.word == "lookup" { "lookup" } else { "filter" };
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if !is_key(key) {
        let key = super::printable(key);
        let text = format!("Invalid {word} key: \"{key}\"");
        return Err(Failure::Error(text));
    }
    let test = match value.strip_prefix('~') {
        Some(pattern) => Test::Pattern(Pattern::parse(pattern)),
        None => Test::Equal(value.to_owned()),
    };
    Ok(Filter { key: key.to_owned(), test })
}

fn all(call: &Call<'_>) -> Result<Vec<View>, Failure> {
    let zones = Zone::all(&call.place).map_err(plain)?;
    // One that is deleted while we look is left out.
    Ok(zones.iter().filter_map(|zone| View::of(zone).ok()).collect())
}

fn found(
    call: &Call<'_>,
    options: &Options,
) -> Result<Vec<Map<String, Value>>, Failure> {
    let mut objects: Vec<_> = all(call)?.iter().map(listed).collect();
    objects.retain(|one| options.filters.iter().all(|f| f.holds(one)));
    Ok(objects)
}

/// `vmadm list`.
pub(super) fn list(call: &Call<'_>) -> Outcome {
    let options = options(call)?;
    let names = |list: &Option<Vec<String>>, default: &[&str]| {
        list.clone().unwrap_or_else(|| {
            default.iter().map(|one| (*one).to_owned()).collect()
        })
    };
    let fields =
        names(&options.fields, &["uuid", "type", "ram", "state", "alias"]);
    let sort = names(&options.sort, &["ram", "uuid"]);
    for (word, list) in [("order", &fields), ("sort", &sort)] {
        for field in list {
            let name = field.trim_start_matches(['-', '+']);
            if width(if word == "sort" { name } else { field }).is_none() {
                let field = super::printable(field);
                let text = format!("invalid {word} field: {field}");
                return Err(Failure::Error(text));
            }
        }
    }
    let mut objects = found(call, &options)?;
    objects.sort_by(|a, b| order(a, b, &sort));
    let row = |cells: Vec<String>| {
        let padded = fields.iter().zip(cells).map(|(field, cell)| {
            format!("{cell:<0$}", width(field).unwrap_or(0))
        });
        let line = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let mut text = String::new();
    if !options.parsable && !options.no_header {
        text += &row(fields.iter().map(|f| f.to_uppercase()).collect());
    }
    for object in &objects {
        let cells = fields.iter().map(|field| cell(object, field));
        if options.parsable {
            text += &cells.collect::<Vec<_>>().join(":");
            text.push('\n');
            continue;
        }
        let dash = |cell: String| {
            if cell.is_empty() { "-".to_owned() } else { cell }
        };
        text += &row(cells.map(dash).collect());
    }
    Ok(Done::data(text))
}

fn order(
    a: &Map<String, Value>,
    b: &Map<String, Value>,
    keys: &[String],
) -> std::cmp::Ordering {
    for key in keys {
        let (reverse, key) = match key.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, key.trim_start_matches('+')),
        };
        let number = |o: &Map<String, Value>| o.get(key)?.as_f64();
        let order = match (number(a), number(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => cell(a, key).cmp(&cell(b, key)),
        };
        let order = if reverse { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    std::cmp::Ordering::Equal
}

/// `vmadm lookup`.
pub(super) fn lookup(call: &Call<'_>) -> Outcome {
    let options = options(call)?;
    if options.fields.is_some() && !options.json {
        return Err(Failure::new("Cannot specify -o without -j"));
    }
    let mut objects = found(call, &options)?;
    if options.unique && objects.len() != 1 {
        return Err(Failure::Error(format!(
            "Requested unique lookup but found {} results.",
            objects.len()
        )));
    }
    if !options.json {
        let lines =
            objects.iter().map(|one| format!("{}\n", cell(one, "uuid")));
        return Ok(Done::data(lines.collect::<String>()));
    }
    if let Some(fields) = &options.fields {
        for object in &mut objects {
            object.retain(|name, _| fields.contains(name));
        }
    }
    let objects = objects.into_iter().map(Value::Object).collect();
    Ok(Done::data(format!("{:#}\n", Value::Array(objects))))
}

/// `vmadm get`.
pub(super) fn get(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let missing =
        || Failure::Error(format!("zoneadm: {uuid}: No such zone configured"));
    let zone = call.zone(uuid).ok_or_else(missing)?;
    let view = View::of(&zone).map_err(plain)?;
    Ok(Done::data(format!("{:#}\n", Value::Object(view.object))))
}

/// `vmadm info`: nothing to say of zones, and it says so as the original.
pub(super) fn info(call: &Call<'_>) -> Outcome {
    let uuid = call.uuid()?;
    let failed = |why: &str| {
        Failure::Error(format!("Unable to get VM info for VM {uuid}: {why}"))
    };
    let zone = call.zone(uuid).ok_or_else(|| failed("bad statusCode: 404"))?;
    let view = View::of(&zone).map_err(plain)?;
    if view.condition != Condition::Running {
        return Err(failed(&format!(
            "Unable to get info for vm from state \"{}\", must be \
             \"running\" or \"stopping\".",
            view.state()
        )));
    }
    let brand = view.object.get("brand").map(shown).unwrap_or_default();
    Err(failed(&format!("no info types supported for brand {brand}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, wanted) in [
            ("^worker", "Worker0", true),
            ("^orker", "worker0", false),
            ("ker", "worker0", true),
            ("0$", "worker0", true),
            ("w.*0", "worker0", true),
            ("^w.r*ker0$", "worker0", true),
            ("^$", "", true),
            ("a\\.b", "axb", false),
        ] {
            let found = Pattern::parse(pattern).matches(text);
            assert_eq!(found, wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn values_are_found_under_dotted_keys() {
        let object = serde_json::json!({
            "tags": {"a": "x"},
            "nics": [{"ip": "1"}, {"ip": "2"}],
        });
        assert_eq!(values(&object, "tags.a"), [&Value::from("x")]);
        assert_eq!(values(&object, "nics.*.ip").len(), 2);
        assert_eq!(values(&object, "nics.1.ip"), [&Value::from("2")]);
        assert!(values(&object, "nics.7.ip").is_empty());
    }
}
