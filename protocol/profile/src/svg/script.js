'use strict';
(function () {
  const here = document.currentScript;
  const svg = (here && here.closest('svg')) || document.documentElement;
  const NS = 'http://www.w3.org/2000/svg';
  const PAD = 12, STILL = 1200 - 2 * PAD, CHAR = 6.63, GAP = 0.6;
  const details = svg.querySelector('#details');
  const reset = svg.querySelector('#reset');
  const search = svg.querySelector('#search');
  const found = svg.querySelector('#found');
  const back = svg.querySelector('.back');
  const boxes = Array.from(svg.querySelectorAll('.b'), function (g) {
    const rect = g.querySelector('rect');
    const [name, ...rest] = g.querySelector('title').textContent.split('\n');
    const drawn = +rect.getAttribute('width');
    return {
      g, rect, name, about: rest.join(' · '),
      text: g.querySelector('text'),
      x: (rect.getAttribute('x') - PAD) / STILL,
      w: (drawn > 3 - GAP ? drawn + GAP : drawn) / STILL,
      y: +rect.getAttribute('y'),
      row: +g.getAttribute('data-row'),
    };
  });
  if (!boxes.length) return;
  const height = +svg.getAttribute('height');
  let zoom = boxes[0], wide = STILL;

  function label(box, x, width) {
    const room = Math.floor((width - 6) / CHAR);
    const name = Array.from(box.name);
    if (room < 3) {
      if (box.text) box.text.textContent = '';
      return;
    }
    if (!box.text) {
      box.text = document.createElementNS(NS, 'text');
      box.text.setAttribute('y', box.y + 12);
      box.g.appendChild(box.text);
    }
    box.text.setAttribute('x', x + 4);
    box.text.textContent = name.length <= room
      ? box.name : name.slice(0, room - 1).join('') + '…';
  }

  function draw() {
    const tiny = 1e-6;
    for (const box of boxes) {
      const left = Math.max(box.x, zoom.x);
      const right = Math.min(box.x + box.w, zoom.x + zoom.w);
      const over = box.row < zoom.row;
      const inside = over
        ? box.x <= zoom.x + tiny && box.x + box.w >= zoom.x + zoom.w - tiny
        : right - left > tiny * zoom.w;
      box.g.classList.toggle('off', !inside);
      box.g.classList.toggle('up', over && inside);
      if (!inside) continue;
      const x = PAD + (left - zoom.x) / zoom.w * wide;
      const width = Math.max((right - left) / zoom.w * wide, 0.1);
      box.rect.setAttribute('x', x);
      box.rect.setAttribute('width', width > 3 ? width - GAP : width);
      label(box, x, width);
    }
    reset.classList.toggle('off', zoom === boxes[0]);
  }

  function fit() {
    const width = Math.max(svg.getBoundingClientRect().width, 400);
    wide = width - 2 * PAD;
    svg.setAttribute('viewBox', '0 0 ' + width + ' ' + height);
    back.setAttribute('width', width);
    place(reset, width - 290);
    place(search, width - 210);
    place(found, width - PAD);
    draw();
  }

  function place(node, x) {
    node.setAttribute('x', x);
  }

  // A real input field, so that pasting and input methods work. It is made
  // here because a picture without its script has no use for it.
  const holder = document.createElementNS(NS, 'foreignObject');
  const field = document.createElementNS(
    'http://www.w3.org/1999/xhtml', 'input');
  field.type = 'search';
  field.setAttribute('aria-label', 'search functions');
  holder.setAttribute('y', 38);
  holder.setAttribute('width', 200);
  holder.setAttribute('height', 28);
  holder.classList.add('off');
  field.style.width = '190px';
  holder.appendChild(field);
  svg.appendChild(holder);

  function look() {
    const term = field.value.toLowerCase();
    let end = -1, sum = 0;
    const hits = boxes.filter(function (box) {
      const hit = term !== '' && box.name.toLowerCase().includes(term);
      box.g.classList.toggle('m', hit);
      return hit;
    });
    // Callees of a hit are within it: count each stretch once.
    hits.sort((a, b) => a.x - b.x || b.w - a.w);
    for (const box of hits) {
      const right = box.x + box.w;
      if (right <= end) continue;
      sum += right - Math.max(box.x, end);
      end = right;
    }
    found.textContent = term === '' ? ''
      : 'found ' + (100 * Math.max(sum, 0)).toFixed(1) + ' %';
  }

  function ask() {
    const width = svg.getBoundingClientRect().width;
    holder.setAttribute('x', width - 210);
    holder.classList.remove('off');
    search.classList.add('off');
    field.focus();
    field.select();
  }

  function leave() {
    field.value = '';
    look();
    holder.classList.add('off');
    search.classList.remove('off');
  }

  svg.setAttribute('width', '100%');
  for (const box of boxes) {
    box.g.setAttribute('tabindex', -1);
    box.g.addEventListener('click', function () { zoom = box; draw(); });
    box.g.addEventListener('mouseenter', function () {
      details.textContent = box.name + ' · ' + box.about;
    });
    box.g.addEventListener('mouseleave', function () {
      details.textContent = '';
    });
  }
  reset.addEventListener('click', function () { zoom = boxes[0]; draw(); });
  search.addEventListener('click', ask);
  search.classList.remove('off');
  field.addEventListener('input', look);
  document.addEventListener('keydown', function (event) {
    const typing = event.target === field;
    if (event.key === 'Escape') {
      if (typing || field.value) leave();
      else { zoom = boxes[0]; draw(); }
    } else if (!typing && event.key === '/' || event.key === 'f'
        && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      ask();
    }
  });
  window.addEventListener('resize', fit);
  fit();
})();
