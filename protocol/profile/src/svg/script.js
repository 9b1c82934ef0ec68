'use strict';
// Zooms, searches and shows details. It makes text nodes and attributes of
// the picture's own texts, and never markup or code; it asks no network and
// keeps nothing.
(function () {
  const here = document.currentScript;
  const svg = (here && here.closest('svg')) || document.documentElement;
  const SVG = 'http://www.w3.org/2000/svg';
  const HTML = 'http://www.w3.org/1999/xhtml';
  const PAD = 12, STILL = 1200 - 2 * PAD, CHAR = 6.63, GAP = 0.6, BAR = 30;
  const HINT = 'Click a box to zoom in; arrow keys and Enter do so as well.';
  const graph = svg.querySelector('#boxes');
  const tool = svg.querySelector('#tool');
  const status = svg.querySelector('#status');
  if (!graph) return;
  const details = status.querySelector('text');

  const boxes = Array.from(graph.querySelectorAll('.b'), function (g) {
    const rect = g.querySelector('rect');
    const [name, ...about] = g.querySelector('title').textContent.split('\n');
    const mark = g.getAttribute('data-mark');
    const drawn = +rect.getAttribute('width');
    return {
      g, rect, name, about: about.join(' · '), low: name.toLowerCase(),
      label: Array.from(mark ? mark + ' ' + name : name),
      text: g.querySelector('text'), shown: null,
      x: (rect.getAttribute('x') - PAD) / STILL,
      // The gap between neighbours is not drawn, but belongs to the width.
      w: (drawn > 3 - GAP ? drawn + GAP : drawn / (1 - GAP / 3)) / STILL,
      y: +rect.getAttribute('y'), row: +g.getAttribute('data-row'),
      up: null, over: [], at: 0, is: 'in', hit: false,
    };
  });
  const root = boxes[0];
  const box_of = new Map(boxes.map((box) => [box.g, box]));
  const rows = [];
  for (const box of boxes) (rows[box.row] = rows[box.row] || []).push(box);
  rows.forEach(function (row, n) {
    row.sort((a, b) => a.x - b.x);
    let at = 0;
    row.forEach(function (box, place) {
      box.at = place;
      if (n === 0) return;
      const below = rows[n - 1], middle = box.x + box.w / 2;
      while (at + 1 < below.length && below[at + 1].x <= middle) at += 1;
      box.up = below[at];
      below[at].over.push(box);
    });
  });
  const is_flame = rows.length > 1 && rows[1][0].y < root.y;
  const height = +svg.getAttribute('height');
  const home = +tool.getAttribute('data-y');
  let zoom = root, width = 1200, cursor = root;

  // Characters of far scripts and pictures are two columns wide.
  function columns(char) {
    return char.codePointAt(0) >= 0x1100 ? 2 : 1;
  }

  function fitting(label, room) {
    let used = 0;
    for (const char of label) used += columns(char);
    if (used <= room) return label.join('');
    let at = 0;
    used = 1;
    while (at < label.length && used + columns(label[at]) <= room) {
      used += columns(label[at]);
      at += 1;
    }
    return label.slice(0, at).join('') + '…';
  }

  function write(box, x, wide) {
    const room = Math.floor((wide - 6) / CHAR);
    if (room < 3 && !box.text) return;
    if (!box.text) {
      box.text = document.createElementNS(SVG, 'text');
      box.text.setAttribute('y', box.y + 12);
      box.g.appendChild(box.text);
    }
    box.text.setAttribute('x', x + 4);
    box.text.textContent = room < 3 ? '' : fitting(box.label, room);
  }

  function show(box, is) {
    if (box.is === is) return;
    box.is = is;
    box.g.classList.toggle('off', is === 'off');
    box.g.classList.toggle('up', is === 'up');
  }

  // Outer boxes stand before inner ones, so each knows what holds it.
  function draw() {
    const outer = new Set();
    for (let box = zoom.up; box; box = box.up) outer.add(box);
    const wide = width - 2 * PAD, end = zoom.x + zoom.w;
    for (const box of boxes) {
      const inside = box === zoom || (box.up && box.up.is === 'in');
      show(box, outer.has(box) ? 'up' : inside ? 'in' : 'off');
      if (box.is === 'off') continue;
      const left = Math.max(box.x, zoom.x);
      const right = Math.min(box.x + box.w, end);
      const x = PAD + (left - zoom.x) / zoom.w * wide;
      const w = Math.max((right - left) / zoom.w * wide, 0.1);
      box.rect.setAttribute('x', x);
      box.rect.setAttribute('width', w > 3 ? w - GAP : w * (1 - GAP / 3));
      box.rect.setAttribute('rx', w > 5 ? 2 : 0);
      write(box, x, w);
    }
    out.disabled = zoom === root;
  }

  function into(box) {
    zoom = box;
    draw();
    found();
  }

  // The tools and the details stay in sight where the picture is scrolled.
  function stick() {
    const seen = svg.getBoundingClientRect();
    const scale = width / Math.max(seen.width, 1);
    const top = Math.max(0, -seen.top) * scale;
    const bottom = Math.min(height, (window.innerHeight - seen.top) * scale);
    holder.setAttribute('y', Math.max(home, top));
    const y = Math.min(height, Math.max(bottom, home + 3 * BAR)) - BAR;
    status.setAttribute('transform', 'translate(0 ' + y + ')');
  }

  function fit() {
    const room = svg.getBoundingClientRect().width;
    width = Math.max(room, 900);
    const scale = room / width || 1;
    svg.setAttribute('height', Math.ceil(height * scale));
    svg.setAttribute('viewBox', '0 0 ' + width + ' ' + height);
    for (const back of svg.querySelectorAll('.back')) {
      back.setAttribute('width', width);
    }
    holder.setAttribute('width', width - 2 * PAD);
    draw();
    stick();
  }

  function tell(box) {
    if (!box) {
      details.textContent = HINT;
      return;
    }
    const about = ' · ' + box.about;
    // These letters are larger than those of the boxes.
    const room = Math.floor((width - 2 * PAD) / CHAR * 0.9) - about.length;
    const name = Array.from(box.name);
    details.textContent = fitting(name, Math.max(room, 20)) + about;
  }

  // Real fields, so that pasting, input methods and readers of the screen
  // work. They are made here since a still picture has no use for them.
  function part(name, attributes, text) {
    const node = document.createElementNS(HTML, name);
    for (const [key, value] of Object.entries(attributes)) {
      node.setAttribute(key, value);
    }
    node.textContent = text;
    return node;
  }
  const field = part('input', {
    type: 'search', 'aria-label': 'search functions',
    placeholder: 'search: words, or /regex/', title: 'Ctrl-F or /',
    spellcheck: 'false', autocomplete: 'off',
  }, '');
  const out = part('button', { type: 'button', title: 'Escape' }, 'Zoom out');
  const sum = part('span', { role: 'status' }, '');
  const line = part('div', {}, '');
  line.append(field, out, sum);
  const holder = document.createElementNS(SVG, 'foreignObject');
  holder.setAttribute('x', PAD);
  holder.setAttribute('height', BAR);
  holder.appendChild(line);
  tool.appendChild(holder);

  // What a box must have to be found: all words, or a regular expression.
  function matcher(text) {
    const regex = /^\/(.+)\/$/.exec(text);
    if (!regex) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      return words.length === 0 ? null
        : (box) => words.every((word) => box.low.includes(word));
    }
    const wanted = new RegExp(regex[1], 'i');
    return (box) => wanted.test(box.name);
  }

  // The part of a stretch that is covered. Callees of a hit are within it:
  // each stretch counts once.
  function covered(hits, from, to) {
    let end = from, all = 0;
    for (const box of hits) {
      const left = Math.max(box.x, end);
      const right = Math.min(box.x + box.w, to);
      if (right <= left) continue;
      all += right - left;
      end = right;
    }
    return Math.min(all / (to - from), 1);
  }

  function found() {
    const hits = boxes.filter((box) => box.hit);
    if (field.value.trim() === '' || field.classList.contains('bad')) return;
    hits.sort((a, b) => a.x - b.x || b.w - a.w);
    const percent = (part) => (100 * part).toFixed(1) + ' %';
    const boxed = hits.length === 1 ? ' in 1 box' : ' in ' + hits.length
      + ' boxes';
    let text = hits.length === 0 ? 'nothing found'
      : 'found ' + percent(covered(hits, root.x, root.x + root.w)) + boxed;
    if (hits.length > 0 && zoom !== root) {
      text += ', ' + percent(covered(hits, zoom.x, zoom.x + zoom.w))
        + ' of what is shown';
    }
    sum.textContent = text;
  }

  function look() {
    let wanted = null, is_bad = false;
    try {
      wanted = matcher(field.value.trim());
    } catch (error) {
      is_bad = true;
    }
    for (const box of boxes) {
      const hit = wanted !== null && wanted(box);
      if (hit === box.hit) continue;
      box.hit = hit;
      box.g.classList.toggle('m', hit);
    }
    field.classList.toggle('bad', is_bad);
    field.setAttribute('aria-invalid', is_bad);
    sum.textContent = is_bad ? 'this is no regular expression' : '';
    found();
  }

  // One box is in the order of Tab; the arrow keys lead to the others.
  function point(box) {
    cursor.g.removeAttribute('tabindex');
    cursor = box;
    box.g.setAttribute('tabindex', 0);
    box.g.setAttribute('role', 'treeitem');
    box.g.setAttribute('aria-level', box.row + 1);
  }

  function beside(box, step) {
    const row = rows[box.row];
    for (let at = box.at + step; row[at]; at += step) {
      if (row[at].is !== 'off') return row[at];
    }
    return null;
  }

  function widest(box) {
    const seen = box.over.filter((inner) => inner.is !== 'off');
    return seen.reduce((a, b) => (a && a.w >= b.w ? a : b), null);
  }

  function step(box, key) {
    switch (key) {
      case 'ArrowUp': return is_flame ? widest(box) : box.up;
      case 'ArrowDown': return is_flame ? box.up : widest(box);
      case 'ArrowLeft': return beside(box, -1);
      case 'ArrowRight': return beside(box, 1);
      case 'Home': return root;
      default: return null;
    }
  }

  // A search is left first, a zoom next.
  function escape() {
    if (field.value !== '') {
      field.value = '';
      look();
    } else {
      into(root);
    }
  }

  function pressed(event) {
    const typing = event.target === field;
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const find = event.key === 'f' && (event.ctrlKey || event.metaKey);
    if (event.key === 'Escape') {
      escape();
    } else if (!typing && (find || plain && event.key === '/')) {
      field.focus({ preventScroll: true });
      field.select();
    } else if (plain && event.target === cursor.g) {
      const next = step(cursor, event.key);
      if (next) {
        point(next);
        next.g.focus();
      } else if (event.key === 'Enter' || event.key === ' ') {
        into(cursor);
      } else if (!event.key.startsWith('Arrow')) {
        return;
      }
    } else {
      return;
    }
    event.preventDefault();
  }

  function target(event) {
    const near = event.target.closest && event.target.closest('.b');
    return box_of.get(near);
  }

  graph.addEventListener('click', function (event) {
    const box = target(event);
    if (!box) return;
    point(box);
    box.g.focus({ preventScroll: true });
    into(box);
    tell(box);
  });
  graph.addEventListener('mouseover', (event) => tell(target(event)));
  graph.addEventListener('mouseout', () => tell(null));
  // Of the document: a group that listens to focus would take it itself.
  document.addEventListener('focusin', (event) => tell(target(event)));
  out.addEventListener('click', () => into(root));
  field.addEventListener('input', look);
  document.addEventListener('keydown', pressed);
  window.addEventListener('resize', fit);
  window.addEventListener('scroll', stick, { passive: true });

  svg.setAttribute('width', '100%');
  svg.setAttribute('role', 'group');
  graph.setAttribute('role', 'tree');
  graph.setAttribute('aria-label', 'calls, by processor time');
  for (const part of [tool, status]) part.removeAttribute('display');
  point(root);
  tell(null);
  fit();
})();
