import assert from "node:assert/strict";
import test from "node:test";
import { oneLine, tail, visible } from "../../qqmem/dashboard/core/text.js";
import { search } from "../../qqmem/dashboard/core/api.js";
import { pause } from "../../qqmem/dashboard/core/backoff.js";
import { link, parse } from "../../qqmem/dashboard/core/router.js";

test("what is invisible or turns writing around is a mark", () => {
  assert.equal(visible("a\u0000\u001b[31m\u007f"), "a␀␛[31m␡");
  assert.equal(visible("小\u202e明\u2066"), "小[U+202E]明[U+2066]");
  assert.equal(visible("零\u200b宽\ufeff"), "零[U+200B]宽[U+FEFF]");
});

test("nothing that writing needs is changed", () => {
  for (const text of ["<img src=x onerror=alert(1)>", "👩‍👩‍👧 家", "日本語 مرحبا שלום", "一\n二\t三", "é 🇨🇳"]) assert.equal(visible(text), text);
  assert.equal(visible("一\r\n二"), "一\n二");
});

test("a name is one line of a length", () => {
  assert.equal(oneLine("小\n明"), "小␤明");
  assert.equal([...oneLine("👍".repeat(200))].length, 64);
  assert.equal(oneLine("小明"), "小明");
});

test("the end of a text begins with a whole character", () => {
  assert.deepEqual(tail("abc", 5), { dropped: 0, text: "abc" });
  assert.deepEqual(tail("abcdef", 2), { dropped: 4, text: "ef" });
  assert.deepEqual(tail("a👍b", 2), { dropped: 3, text: "b" });
});

test("addresses keep ids with any character", () => {
  for (const id of ["group:20002", "a/b", "100%", "?q=1#x"]) {
    const { view, id: found, query } = parse(link("conversations", id, { q: "咖啡 &", at: "" }));
    assert.deepEqual([view, found, query.get("q"), query.has("at")], ["conversations", id, "咖啡 &", false]);
  }
  assert.equal(parse("#/nowhere").view, "live");
  assert.equal(parse("").view, "live");
  assert.equal(parse("#/memories/%E0%A4%A").id, "%E0%A4%A");
});

test("a list in a query is repeated, what is empty is left out", () => {
  assert.equal(search({ ids: [1, 2], q: "", before: undefined, k: 0 }), "?ids=1&ids=2&k=0");
  assert.equal(search({}), "");
});

test("pauses grow, up to a most", () => {
  assert.equal(pause(1, () => 1), 400);
  assert.equal(pause(1, () => 0), 200);
  assert.equal(pause(50, () => 1), 15_000);
});
