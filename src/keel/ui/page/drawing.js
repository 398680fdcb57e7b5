// Needles, coloured tokens and the map of roles. Knows nothing of the conversation.

const SVG = "http://www.w3.org/2000/svg";

// Tokens scatter more widely than answers do: full colour is this far from the middle, in gaps.
const WIDEST = 2.5;
const MIDDLE = 0.5;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function signed(gaps) {
  return (gaps < 0 ? "−" : "+") + Math.abs(gaps).toFixed(2);
}

// One span per token, its background between the colours of the two ends.
export function colouredTokens(pieces) {
  return pieces.filter(([text]) => text).map(([text, gaps]) => {
    const made = element("span", { title: `${signed(gaps)} gaps` }, text);
    const distance = (gaps - MIDDLE) / WIDEST;
    if (distance < 0) made.classList.add("low");
    made.style.setProperty("--weight", Math.min(Math.abs(distance), 1).toFixed(3));
    return made;
  });
}

export function legend() {
  const low = signed(MIDDLE - WIDEST), high = signed(MIDDLE + WIDEST);
  return [`role-like ${low}`, element("i"), `${high} Assistant-like (gaps)`];
}

// A scale from below the role mean to above the default's, the floor marked.
export function needle(gaps, floorGaps) {
  const values = [0, 1, gaps, ...(floorGaps === null ? [] : [floorGaps])];
  const low = Math.min(...values) - 0.25, high = Math.max(...values) + 0.25;
  const x = (value) => 8 + (304 * (value - low)) / (high - low);
  const words = `needle at ${signed(gaps)} gaps`
    + (floorGaps === null ? "" : `, floor at ${signed(floorGaps)}`);
  const drawn = shape("svg", { class: "needle", viewBox: "0 0 320 34", preserveAspectRatio: "xMinYMid", role: "img", "aria-label": words });
  drawn.append(shape("line", { class: "scale", x1: 8, x2: 312, y1: 14, y2: 14 }));
  for (const [value, name] of [[0, "0 roles"], [1, "1 default"]]) {
    drawn.append(
      shape("line", { class: "scale", x1: x(value), x2: x(value), y1: 9, y2: 19 }),
      shape("text", { x: x(value), y: 31, "text-anchor": "middle" }, name),
    );
  }
  if (floorGaps !== null)
    drawn.append(shape("line", { class: "floor", x1: x(floorGaps), x2: x(floorGaps), y1: 4, y2: 24 }));
  const at = x(gaps);
  drawn.append(shape("path", { class: "hand", d: `M${at - 6} 1 L${at + 6} 1 L${at} 14 Z` }));
  return drawn;
}

// The roles as points; names where there is room, those farthest from the middle first.
export function drawMap(map, roles, onRole) {
  const width = 284, height = 220, edge = 12;
  map.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scale = (values, from, to) => {
    const low = Math.min(...values), high = Math.max(...values);
    return (value) => from + ((to - from) * (value - low)) / (high - low || 1);
  };
  const x = scale(roles.map((role) => role.at[0]), edge, width - edge);
  const y = scale(roles.map((role) => role.at[1] ?? 0), height - edge, edge);
  const points = roles.map((role) => ({ role, x: x(role.at[0]), y: y(role.at[1] ?? 0) }));
  map.replaceChildren();
  for (const point of points) {
    const circle = shape("circle", { cx: point.x, cy: point.y, r: 5, "data-role": point.role.name });
    if (point.role.name === "default") circle.classList.add("default");
    circle.append(shape("title", {}, point.role.name));
    circle.addEventListener("click", () => onRole(point.role.name));
    map.append(circle);
  }
  const taken = points.map((point) => [point.x - 5, point.y - 5, point.x + 5, point.y + 5]);
  const outermost = [...points].sort((a, b) =>
    (b.role.name === "default") - (a.role.name === "default")
    || Math.abs(b.x - width / 2) - Math.abs(a.x - width / 2));
  for (const point of outermost) {
    const length = 6.4 * point.role.name.length;
    const right = point.x + 8 + length < width;
    const left = right ? point.x + 8 : point.x - 8 - length;
    const box = [left, point.y - 7, left + length, point.y + 7];
    const meets = (other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1];
    if (left < 0 || taken.some(meets)) continue;
    taken.push(box);
    map.append(shape("text", { x: left, y: point.y + 4 }, point.role.name));
  }
}

export function markRole(map, name) {
  for (const circle of map.querySelectorAll("circle"))
    circle.classList.toggle("chosen", circle.dataset.role === name);
}
