// A field above the table of docs/architectures.md that hides the rows without all of its words. No network, no library.
// Without this script the table shows every row.
document.addEventListener("DOMContentLoaded", () => {
  const heading = document.getElementById("all-of-them");
  const table = heading?.parentElement.querySelector("table");
  if (!table) return;
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);

  const field = document.createElement("input");
  field.type = "search";
  field.id = "architectures-search";
  field.placeholder = "qwen experts rot_k";
  field.style.cssText = "width: 20rem; max-width: 100%; padding: .4rem; border: 1px solid currentColor; font: inherit";
  const label = document.createElement("label");
  label.htmlFor = field.id;
  label.textContent = "Rows with all of these words: ";
  const count = document.createElement("p");
  count.setAttribute("role", "status");
  heading.after(label, field, count);

  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = rows.filter(([row, text]) => !(row.hidden = !words.every((word) => text.includes(word))));
    count.textContent = `${shown.length} of ${rows.length} modules`;
  };
  field.addEventListener("input", filter);
  filter();
});
