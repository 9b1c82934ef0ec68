// Burns processor time in three functions: 70, 20 and 10 of 100 parts.
'use strict';

// Drawn by lot for each round: a fixed round would keep step with the samples
// now and then, and they would meet the same part each time.
let step = 1777;

function burn(parts) {
  let x = 2463534242;
  for (let i = 0; i < parts * step; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
  }
  return x >>> 0;
}

// Each has a loop of its own, so that none is inlined into the next.
function seventy() { let s = 0; for (let i = 0; i < 7; i++) s += burn(1); return s; }
function twenty() { let s = 0; for (let i = 0; i < 2; i++) s += burn(1); return s; }
function ten() { let s = 0; for (let i = 0; i < 1; i++) s += burn(1); return s; }

// One call with many targets, which V8 does not inline: an inlined function
// appears in no stack.
const works = [seventy, twenty, ten, () => 1, () => 2, () => 3, () => 4, () => 5];

const rounds = Number(process.argv[2] || 100);
let sum = 0;
let lot = 1;
for (let i = 0; i < rounds; i++) {
  lot = (Math.imul(lot, 1664525) + 1013904223) >>> 0;
  step = 777 + (lot >>> 16) % 2000;
  for (let k = 0; k < works.length; k++) sum = (sum + works[k]()) % 1e9;
}
console.log(sum);
