'use strict';
/* global uPlot, Panzoom */

const clips = JSON.parse(document.getElementById('clips').textContent);
const $ = (id) => document.getElementById(id);
const viewer = $('viewer');
// colours that people with colour blindness can distinguish (Okabe and Ito 2008)
const COLOURS = ['#888888', '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00'];

let clip = clips[0];
let frame = 0;
let plot = null;

// The slider ------------------------------------------------------------------------------------

function setSplit(percent) {
  const value = Math.min(100, Math.max(0, percent));
  viewer.style.setProperty('--split', `${value}%`);
  $('handle').setAttribute('aria-valuenow', Math.round(value));
}

function split() {
  return parseFloat(viewer.style.getPropertyValue('--split'));
}

$('handle').addEventListener('pointerdown', (event) => {
  $('handle').setPointerCapture(event.pointerId);
});
$('handle').addEventListener('pointermove', (event) => {
  if (!$('handle').hasPointerCapture(event.pointerId)) return;
  const box = viewer.getBoundingClientRect();
  setSplit((100 * (event.clientX - box.left)) / box.width);
});

// Zoom: one transform for both pictures ---------------------------------------------------------

const zoom = Panzoom($('left-image'), {
  canvas: true, // react to the whole pane
  contain: 'outside',
  minScale: 1,
  maxScale: 40,
  setTransform: (_, { scale, x, y }) => {
    viewer.style.setProperty('--zoom', `scale(${scale}) translate(${x}px, ${y}px)`);
    showPixels(scale);
  },
});
$('under').addEventListener('wheel', zoom.zoomWithWheel, { passive: false });
$('fit').addEventListener('click', () => zoom.reset({ animate: false }));

function showPixels(scale) {
  const natural = $('left-image').naturalWidth;
  viewer.classList.toggle('enlarged', natural > 0 && scale * viewer.clientWidth > 2 * natural);
}

$('left-image').addEventListener('load', (event) => {
  const { naturalWidth, naturalHeight } = event.target;
  viewer.style.setProperty('--aspect', naturalWidth / naturalHeight);
  showPixels(zoom.getScale());
});

// Frames ----------------------------------------------------------------------------------------

function address(side, number = frame) {
  return clip.images[$(side).value][number];
}

function show() {
  for (const side of ['left', 'right']) {
    const method = $(side).value;
    const value = clip.scores[method]?.[frame];
    $(`${side}-image`).src = address(side);
    $(`${side}-image`).alt = `${method}: image cannot be loaded`;
    $(`${side}-name`).textContent = value == null ? method : `${method} ${withUnit(value)}`;
  }
  $('frame').textContent = `${clip.frames[frame]} (${frame + 1} of ${clip.frames.length})`;
  if (plot) plot.redraw(false);
  for (const next of [frame + 1, frame - 1]) {
    if (next in clip.frames) {
      new Image().src = address('left', next);
      new Image().src = address('right', next);
    }
  }
}

// two decimals and the unit, for scores in dB; three decimals for scores without a unit
function withUnit(value) {
  return clip.unit ? `${value.toFixed(2)} ${clip.unit}` : value.toFixed(3);
}

function goTo(number) {
  frame = Math.min(clip.frames.length - 1, Math.max(0, number));
  show();
}

function fillMethods() {
  const methods = Object.keys(clip.images);
  const wanted = { left: methods[0], right: methods[1] };
  for (const side of ['left', 'right']) {
    const before = $(side).value;
    $(side).replaceChildren(...methods.map((method) => new Option(method)));
    $(side).value = methods.includes(before) ? before : wanted[side];
  }
}

function setClip(number) {
  if (!(number in clips)) return;
  $('clip').value = number;
  clip = clips[number];
  frame = Math.min(frame, clip.frames.length - 1);
  fillMethods();
  drawPlot();
  show();
}

function swap() {
  [$('left').value, $('right').value] = [$('right').value, $('left').value];
  show();
}

$('clip').addEventListener('change', () => setClip(Number($('clip').value)));
$('left').addEventListener('change', show);
$('right').addEventListener('change', show);
$('swap').addEventListener('click', swap);
$('previous').addEventListener('click', () => goTo(frame - 1));
$('next').addEventListener('click', () => goTo(frame + 1));

const KEYS = {
  ArrowLeft: () => goTo(frame - 1),
  ArrowRight: () => goTo(frame + 1),
  Home: () => goTo(0),
  End: () => goTo(Infinity),
  '[': () => setClip(clips.indexOf(clip) - 1),
  ']': () => setClip(clips.indexOf(clip) + 1),
  x: swap,
  '+': () => zoom.zoomIn({ animate: false }),
  '-': () => zoom.zoomOut({ animate: false }),
  0: () => zoom.reset({ animate: false }),
};

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === 'SELECT') return;
  const sideways = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
  if (event.target === $('handle') && sideways) {
    setSplit(split() + sideways);
  } else if (Object.hasOwn(KEYS, event.key)) {
    KEYS[event.key]();
  } else {
    return;
  }
  event.preventDefault();
});

// The plot --------------------------------------------------------------------------------------

function markFrame(u) {
  const x = Math.round(u.valToPos(frame, 'x', true));
  u.ctx.fillStyle = '#d55e00';
  u.ctx.fillRect(x - 1, u.bbox.top, 2, u.bbox.height);
}

function drawPlot() {
  if (plot) plot.destroy();
  plot = null;
  const methods = Object.keys(clip.scores).filter((m) => clip.scores[m].some((v) => v !== null));
  $('scores').hidden = methods.length === 0;
  if (methods.length === 0) return;
  $('score').textContent = `${clip.score} per frame${clip.unit && `, ${clip.unit}`}`;
  const text = getComputedStyle(document.body).color;
  const axis = { stroke: text, grid: { stroke: '#8884', width: 1 }, ticks: { stroke: '#8884', width: 1 } };
  const options = {
    width: $('plot').clientWidth,
    height: 240,
    scales: { x: { time: false } },
    axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }, axis],
    cursor: { drag: { x: false, y: false } },
    hooks: { draw: [markFrame] },
    series: [
      { label: 'frame', value: (_, i) => (i == null ? '' : clip.frames[i]) },
      ...methods.map((method, i) => ({
        label: method,
        stroke: COLOURS[i % COLOURS.length],
        width: 2,
        dash: i < COLOURS.length ? [] : [8, 4],
        value: (_, v) => (v == null ? '' : withUnit(v)),
      })),
    ],
  };
  const data = [clip.frames.map((_, i) => i), ...methods.map((method) => clip.scores[method])];
  plot = new uPlot(options, data, $('plot'));
  plot.over.addEventListener('click', () => {
    if (plot.cursor.idx != null) goTo(plot.cursor.idx);
  });
}

window.addEventListener('resize', () => {
  if (plot) plot.setSize({ width: $('plot').clientWidth, height: 240 });
  showPixels(zoom.getScale());
});

setSplit(50);
setClip(0);
