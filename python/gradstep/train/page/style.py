"""The style of the report page, light and dark, from the width of a phone on."""

__all__ = ["STYLE"]

STYLE = (
    """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --panel: #f6f7f9; --ink: #1c2330; --soft: #5c6675; --rule: #d9dee5;
  --accent: #1f6feb;
  --c0: #1f6feb; --c1: #d9480f; --c2: #2b8a3e; --c3: #ae3ec9; --c4: #c92a2a;
  --c5: #0b7285; --c6: #e67700; --c7: #5f3dc4; --c8: #66730b; --c9: #a61e4d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181f; --panel: #1c222b; --ink: #e4e8ee; --soft: #9aa5b4; --rule: #343c48;
    --accent: #6ea8fe;
    --c0: #6ea8fe; --c1: #ff922b; --c2: #69db7c; --c3: #da77f2; --c4: #ff8787;
    --c5: #66d9e8; --c6: #ffd43b; --c7: #b197fc; --c8: #c0eb75; --c9: #faa2c1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem;
  background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.05rem; }
.soft, figcaption, .legend { color: var(--soft); }
.warning { border-left: 4px solid var(--c1); padding: .3rem .8rem; background: var(--panel); }
.charts {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
figure { margin: 0; padding: .7rem .6rem .3rem; background: var(--panel); border-radius: 8px; }
figcaption { font-size: .9rem; font-weight: 600; padding-left: .3rem; }
figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
.mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.dot, rect { fill: currentColor; stroke: none; }
.thin { stroke-width: 1; opacity: .55; } .dash { stroke-dasharray: 5 4; }
.faint { opacity: .5; } .guide { color: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; }
.guide-ink { color: var(--ink); }
"""
    + "".join(f".c{i} {{ color: var(--c{i}); }}\n" for i in range(10))
    + """
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; }
.legend { margin: .4rem 0 0; font-size: .9rem; }
.legend svg { width: 24px; height: 8px; margin-right: .4rem; vertical-align: middle; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--rule); }
tr > :first-child { text-align: left; padding-left: 0; }
tbody td { border-bottom: 1px solid var(--rule); }
.matrix td, .matrix th { text-align: center; min-width: 2.4rem; padding: .25rem .45rem; }
.matrix td { border: 2px solid var(--ground); border-radius: 6px; background: var(--panel); }
.matrix td.hit { background: color-mix(in srgb, var(--c0) var(--share), var(--panel)); }
.matrix td.miss { background: color-mix(in srgb, var(--c1) var(--share), var(--panel)); }
.matrix th { border: 0; }
.matrix tr > :first-child { text-align: right; padding-right: .6rem; }
.texts td { text-align: left; }
.texts th { text-align: left; }
.image { width: 56px; height: 56px; image-rendering: pixelated; border-radius: 4px; }
.image { display: block; }
pre { background: var(--panel); padding: .8rem; border-radius: 8px; white-space: pre-wrap; }
pre { overflow-wrap: anywhere; font-size: .9rem; }
code { white-space: nowrap; font-size: .9em; }
@media (max-width: 34rem) { th, td { padding: .25rem .4rem; } table { font-size: .82rem; } }
ul.plain { padding-left: 1.1rem; margin: .4rem 0; }
"""
)
