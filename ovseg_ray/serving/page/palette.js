// Colours of labels, as `ovseg_ray.evaluation.palette` has them (a test compares the two).

export const PALETTE = [
  "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#0000ff",
  "#00ff00", "#ff18e7", "#493d00", "#f3e7c2", "#49249e", "#ff0061", "#92ff86", "#790c24",
  "#558600", "#004949", "#00ffff", "#aa92ff", "#ff9e86", "#aa0086", "#553155", "#f3dbff",
  "#ff0018", "#aaf30c", "#9e49ff", "#aa9249", "#00b600", "#926155", "#00ffc2", "#00490c",
  "#006dff", "#ff86f3", "#86b6aa", "#9ece86", "#aa000c", "#863d0c", "#ff3d9e", "#db556d",
  "#003d92", "#86499e", "#6d7955", "#86799e", "#0c92ff", "#24aa49", "#f3e786", "#240cc2",
  "#9ece3d", "#ff6d55", "#aa9e00", "#9e18b6", "#00ff6d", "#861855", "#dbaaaa", "#ffb6ff",
  "#008692", "#92f3ce", "#9ef3ff", "#aa6d00", "#aab6ff", "#ffb66d", "#183d6d", "#9e61e7",
];
