//! The picture's script in a real browser.
//!
//! A driver of ours is added to a picture; it clicks, types and searches as
//! a person does, and leaves what it saw in the page, which the browser
//! prints. Where there is no browser, or it does not come to an end, the
//! test says so and has nothing to complain of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ntrace_profile::svg::{self, Options};
use ntrace_profile::{FrameKind, Header, Profile, Symbol, folded};
use ntrace_protocol::text;
use serde_json::Value;

/// How long a browser may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(45);

fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file())
}

/// The page as the browser has it once its scripts have run.
fn page(browser: &Path, dir: &Path, picture: &Path) -> Option<String> {
    let out = dir.join("page.html");
    let mut child = Command::new(browser)
        .args(["--headless", "--disable-gpu", "--disable-dev-shm-usage"])
        // What it opens is ours; as root it would not start otherwise.
        .arg("--no-sandbox")
        .arg(format!("--user-data-dir={}", dir.join("user").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", picture.display()))
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(File::create(&out).expect("the directory is ours"))
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if child.try_wait().ok()?.is_some() {
            return fs::read_to_string(out).ok();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().ok();
    child.wait().ok();
    None
}

/// What the driver saw in a picture; none where no browser can tell.
fn seen(picture: &str, driver: &str) -> Option<Value> {
    let Some(browser) = browser() else {
        skipped("there is no chromium here");
        return None;
    };
    // Told before anything of the picture can run.
    let watch = "<script>window.bad = []; \
        for (const name of ['alert', 'confirm', 'prompt', 'open', 'fetch']) \
        window[name] = (...all) => bad.push([name, ...all]); \
        window.onerror = (text) => { bad.push(text); };</script>";
    let report = "; const all = document.createElementNS(\
        'http://www.w3.org/2000/svg', 'text'); all.id = 'seen'; \
        all.textContent = encodeURIComponent(JSON.stringify({seen, bad, \
        asked: performance.getEntriesByType('resource').length})); \
        document.documentElement.appendChild(all);";
    let start = picture.find("<title").expect("a picture has a title");
    let end = picture.rfind("</svg>").expect("a picture ends");
    let driven = format!(
        "{}{watch}{}<script><![CDATA[{driver}{report}]]></script></svg>",
        &picture[..start],
        &picture[start..end]
    );
    let dir = tempfile::tempdir().expect("a directory for the test");
    let file = dir.path().join("picture.svg");
    fs::write(&file, driven).expect("the directory is ours");
    let Some(page) = page(&browser, dir.path(), &file) else {
        skipped("the browser did not come to an end");
        return None;
    };
    let Some((_, rest)) = page.split_once(r#"id="seen">"#) else {
        if page.contains("<svg") {
            panic!("the script stopped: {}", &page[page.len() / 2..]);
        }
        skipped("the browser does not show pages here");
        return None;
    };
    let json = percent_decoded(rest.split('<').next().unwrap_or_default());
    let all: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(all["bad"], Value::Array(Vec::new()), "{all}");
    assert_eq!(all["asked"], 0, "the picture asked the network: {all}");
    Some(all["seen"].clone())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next(), rest.next()].map(Option::unwrap_or_default);
        let hex = std::str::from_utf8(&hex).expect("two digits");
        bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
    }
    String::from_utf8(bytes).expect("it was encoded from text")
}

const HELP: &str = "
const box = (name) => Array.from(document.querySelectorAll('.b')).find(
  (g) => g.querySelector('title').textContent.startsWith(name + '\\n'));
const click = (name) => box(name).querySelector('rect').dispatchEvent(
  new MouseEvent('click', { bubbles: true }));
const field = document.querySelector('#tool input');
const search = (text) => {
  field.value = text;
  field.dispatchEvent(new Event('input'));
  return [document.querySelector('#tool span').textContent,
    document.querySelectorAll('.m').length];
};
const press = (key) => (document.activeElement || document.documentElement)
  .dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
const shown = () => document.querySelectorAll('.b:not(.off)').length;
const wide = (name) => Math.round(100 * box(name).querySelector('rect')
  .getAttribute('width') / box('all').querySelector('rect')
  .getAttribute('width'));
const focused = () => document.activeElement.querySelector('title')
  .textContent.split('\\n')[0];
";

#[test]
fn boxes_are_zoomed_and_found_by_mouse_and_keyboard() {
    let text = "p;main;sort;cmp 30\np;main;sort 10\np;main;parse(x) 45\n\
                q;main;sort 15\n";
    let header = Header { hz: 100, ..Header::default() };
    let profile = folded::read(text.as_bytes(), header).unwrap();
    let picture = svg::flame(&[&profile], &Options::default());
    let driver = format!(
        "{HELP} const seen = {{}};
        seen.start = [shown(), wide('parse(x)')];
        seen.words = search('SORT');
        seen.two = search('parse x');
        seen.regex = search('/^(cmp|par)/');
        seen.bad = search('/a(/');
        seen.none = search('nowhere');
        search('cmp'); click('sort');
        seen.zoomed = [shown(), wide('sort'), wide('cmp'), wide('p'),
          document.querySelector('#tool span').textContent];
        press('Escape'); seen.left = [shown(), field.value];
        press('Escape'); seen.out = shown();
        click('all'); press('ArrowUp'); press('ArrowUp');
        press('ArrowUp'); seen.up = focused();
        press('ArrowRight'); seen.right = focused();
        press('Enter'); seen.enter = wide('sort');
        press('ArrowDown'); seen.down = focused();"
    );
    let Some(seen) = seen(&picture, &driver) else { return };
    let expected = serde_json::json!({
        "start": [9, 45],
        "words": ["found 55.0 % in 2 boxes", 2],
        "two": ["found 45.0 % in 1 box", 1],
        "regex": ["found 75.0 % in 2 boxes", 2],
        "bad": ["this is no regular expression", 0],
        "none": ["nothing found", 0],
        "zoomed": [5, 100, 75, 100,
                   "found 30.0 % in 1 box, 75.0 % of what is shown"],
        "left": [5, ""],
        "out": 9,
        "up": "parse(x)",
        "right": "sort",
        "enter": 100,
        "down": "main",
    });
    assert_eq!(seen, expected);
}

#[test]
fn hostile_names_are_shown_and_never_run() {
    let names = [
        "<script>alert(1)</script>",
        "]]><svg/onload=alert(2)>",
        "\"><img src=http://127.0.0.1:9/x onerror=alert(3)>",
        "' onmouseover='alert(4)",
        "&lt;b&gt; &amp;",
        "turn\u{202e}ed \u{1b}[31m \n two",
        "step 12",
        "javascript:alert(5)",
        "${alert(6)}",
        "__proto__",
        "日本語 😀",
    ];
    let mut profile = Profile::new(Header { hz: 9, ..Header::default() });
    profile.header.warn(names[0]);
    let process = profile.process("p");
    for name in names {
        let frame = profile.frame(&Symbol::new(name, FrameKind::Native));
        profile.add_samples(process, &[frame], 5);
    }
    let title = Some(names[..3].join(" "));
    let options = Options { title, ..Options::default() };
    let picture = svg::flame(&[&profile], &options);
    let driver = format!(
        "{HELP} const seen = [];
        for (const g of document.querySelectorAll('.b')) {{
          const name = g.querySelector('title').textContent.split('\\n')[0];
          seen.push(name);
          g.dispatchEvent(new MouseEvent('mouseover', {{ bubbles: true }}));
          g.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}));
          search(name); search('/' + name + '/');
          press('Escape'); press('Escape');
        }}
        seen.push(document.querySelectorAll('script').length,
          document.querySelectorAll('img, svg svg, [onload]').length)"
    );
    let Some(seen) = seen(&picture, &driver) else { return };
    let mut seen = seen.as_array().expect("a list").clone();
    // The watch, the picture's own, the driver; and nothing else.
    assert_eq!(seen.split_off(seen.len() - 2), [3, 0]);
    let mut seen: Vec<&str> = seen.iter().filter_map(Value::as_str).collect();
    seen.sort_unstable();
    let mut expected: Vec<String> = names.map(text::escape).into();
    expected.extend(["all".to_owned(), "p".to_owned()]);
    expected.sort_unstable();
    assert_eq!(seen, expected);
}
