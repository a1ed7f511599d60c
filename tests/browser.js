// Evaluated in a page by browser.py: what is wrong with it in a window of `width` CSS pixels, a line each.
async (width) => {
  const problems = [], played = [], images = [];
  const say = (problem, element) => problems.push(`${problem}: ${element.outerHTML.slice(0, 100)}`);
  const soon = (promise) =>
    Promise.race([promise, new Promise((_, fail) => setTimeout(() => fail(Error("nothing happens")), 60000))]);

  for (const image of document.images) {
    await image.decode().catch(() => {}); // what cannot be decoded has no width
    if (image.naturalWidth > 0 && image.clientWidth > 0) images.push(image.clientWidth / image.naturalWidth);
    else say("an image shows nothing", image);
  }

  const play = async (audio) => {
    const moved = new Promise((done) => audio.addEventListener("timeupdate", () => audio.currentTime > 0 && done()));
    try {
      if (!audio.currentSrc) throw Error("it has no source"); // waits for one for ever
      await soon(audio.play());
      await soon(moved);
      audio.pause();
      if (!(audio.duration > 0 && audio.duration < Infinity)) throw Error(`its duration is ${audio.duration}`);
      if (!audio.controls || !audio.clientWidth || !audio.clientHeight) throw Error("nobody can start it");
      played.push(audio.duration);
    } catch (error) {
      say(`audio that does not play (${error.message})`, audio);
    }
  };
  await Promise.all([...document.querySelectorAll("audio")].map(play));

  const root = document.scrollingElement;
  const room = Math.min(width, root.clientWidth); // a phone lays a page without <meta viewport> out in 980
  if (root.scrollWidth > room) problems.push(`the page is ${root.scrollWidth} px wide in a window of ${room}`);

  // WCAG's contrast: (L1 + 0.05) / (L2 + 0.05), of relative luminances of sRGB.
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) =>
    channels(color).slice(0, 3)
      .map((c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let up = element; up; up = up.parentElement) {
      const color = getComputedStyle(up).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (element) => {
    const [less, more] = [getComputedStyle(element).color, ground(element)].map(luminance).sort((a, b) => a - b);
    return (more + 0.05) / (less + 0.05);
  };

  // Is a part of `box`, what `element` shows, out of reach? What a box scrolls is in reach where the box is.
  const clipped = (box, element) => {
    for (let up = element; up && up !== document.body; up = up.parentElement) {
      const { overflowX, overflowY } = getComputedStyle(up), edge = up.getBoundingClientRect();
      if (/hidden|clip/.test(overflowX) && (box.left < edge.left - 1 || box.right > edge.right + 1)) return true;
      if (/hidden|clip/.test(overflowY) && (box.top < edge.top - 1 || box.bottom > edge.bottom + 1)) return true;
      if (/auto|scroll/.test(overflowX)) box = edge;
    }
    return box.left < -1 || box.right > room + 1;
  };

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (texts.nextNode()) {
    const text = texts.currentNode, element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility()) continue;
    range.selectNodeContents(text);
    if (parseFloat(getComputedStyle(element).fontSize) < 12) say("text below 12 px", element);
    if (contrast(element) < 4.5) say(`faint text, contrast ${contrast(element).toFixed(1)}`, element);
    if ([...range.getClientRects()].some((box) => clipped(box, element))) say("clipped text", element);
  }
  for (const element of document.querySelectorAll("img, audio"))
    if (clipped(element.getBoundingClientRect(), element)) say("clipped", element);
  return { problems, played, images };
}
