// Burns processor time in three functions: 70, 20 and 10 of 100 parts.
'use strict';

const step = 1777;

function burn() {
  let x = 2463534242;
  for (let i = 0; i < step; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
  }
  return x >>> 0;
}

// Each has a loop of its own, so that none is inlined into the next.
function seventy(unit) { let s = 0; for (let i = 0; i < 7 * unit; i++) s += burn(); return s; }
function twenty(unit) { let s = 0; for (let i = 0; i < 2 * unit; i++) s += burn(); return s; }
function ten(unit) { let s = 0; for (let i = 0; i < unit; i++) s += burn(); return s; }

// One call with many targets, which V8 does not inline: an inlined function
// appears in no stack.
const works = [seventy, twenty, ten, () => 1, () => 2, () => 3, () => 4, () => 5];

const rounds = Number(process.argv[2] || 10);
let sum = 0;
let lot = 1;
for (let i = 0; i < rounds; i++) {
  // Each part goes on for some samples, and no two rounds are equally long,
  // so as not to keep step with the samples.
  lot = (Math.imul(lot, 1664525) + 1013904223) >>> 0;
  const unit = 300 + (lot >>> 16) % 600;
  for (let k = 0; k < works.length; k++) sum = (sum + works[k](unit)) % 1e9;
}
console.log(sum);
