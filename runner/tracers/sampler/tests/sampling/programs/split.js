// Burns processor time in three functions: 70, 20 and 10 of 100 parts.
'use strict';

function burn(parts) {
  let x = 2463534242;
  for (let i = 0; i < parts * 1777; i++) {
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

const rounds = Number(process.argv[2] || 100);
let sum = 0;
for (let i = 0; i < rounds; i++) sum = (sum + seventy() + twenty() + ten()) % 1e9;
console.log(sum);
