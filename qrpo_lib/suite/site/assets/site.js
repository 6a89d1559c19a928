// Filters of the page of verdicts. Without this script all verdicts are shown.
function startFilters() {
  const form = document.querySelector("form.filters");
  if (!form) return;
  const cards = [...document.querySelectorAll(".verdict")];
  const sections = new Map(); // of each heading the cards below it
  let heading = null;
  for (const element of document.querySelectorAll("article h2, article .verdict")) {
    if (element.matches("h2")) heading = element;
    else sections.set(heading, [...(sections.get(heading) || []), element]);
  }

  function show() {
    const chosen = [...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value);
    const profile = form.elements.profile.value;
    const origin = form.elements.origin.value;
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const text = card.textContent.toLowerCase();
      card.hidden = !(
        chosen.includes(card.dataset.verdict) &&
        (!profile || card.dataset.profile === profile) &&
        (!origin || card.dataset.origin === origin) &&
        words.every((word) => text.includes(word))
      );
      count += card.hidden ? 0 : 1;
    }
    form.querySelector("output").textContent = count ? `${count} of ${cards.length}` : `none of ${cards.length}: choose more`;
    for (const [heading, ofHeading] of sections) heading.hidden = ofHeading.every((card) => card.hidden);
  }

  // The counts of the first page lead here and ask for one verdict.
  const asked = (new URLSearchParams(location.search).get("verdict") || "").replace("-", " ");
  const boxes = [...form.querySelectorAll("[name=verdict]")];
  if (boxes.some((box) => box.value === asked)) {
    for (const box of boxes) box.checked = box.value === asked;
    form.elements.origin.value = "paper";
  }
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

startFilters();

// The theme gives its search no name that a screen reader could say.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");

// Nor can its boxes around wide tables be scrolled by the keyboard: they come and go as the page is laid out.
function makeFocusable() {
  const scrolling = '.md-typeset__scrollwrap:not([tabindex]), math[display="block"]:not([tabindex])';
  for (const box of document.querySelectorAll(scrolling)) box.tabIndex = 0;
}
new MutationObserver(makeFocusable).observe(document.body, { childList: true, subtree: true });
makeFocusable();

// On paper everything is open: what is folded is opened before printing and folded again after it.
const opened = [];
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    opened.push(folded);
  }
});
addEventListener("afterprint", () => {
  for (const folded of opened.splice(0)) folded.open = false;
});
