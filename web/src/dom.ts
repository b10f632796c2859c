/** Small helpers over the document. */

/** The element of this id; the page is broken without it. */
export function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} called ${id}`);
  return found;
}

export function show(id: string): void {
  element(id, HTMLElement).hidden = false;
}

export function hide(id: string): void {
  element(id, HTMLElement).hidden = true;
}

/** Tabs as WAI-ARIA describes them: one in the tab order, arrow keys move between them. */
export function onTabs(ids: string[], chosen: (id: string) => void): void {
  const tabs = ids.map((id) => element(id, HTMLButtonElement));
  const choose = (tab: HTMLButtonElement) => {
    for (const other of tabs) {
      const selected = other === tab;
      other.setAttribute("aria-selected", String(selected));
      other.tabIndex = selected ? 0 : -1;
      element(other.getAttribute("aria-controls")!, HTMLElement).hidden = !selected;
    }
    chosen(tab.id);
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      next.focus();
      choose(next);
      event.preventDefault();
    });
  });
}
